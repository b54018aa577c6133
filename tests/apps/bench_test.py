"""gsa bench: what it prints, not how fast it is."""

import resource

import pytest


@pytest.mark.parametrize("task", ["prefill", "decode"])
def test_json_has_a_row_per_policy_and_context(gsa, model, task):
    args = ("bench", task, "--model", model, "--context", "64,200", "--policies", "full,gsa@8,streaming:tokens=32")
    result = gsa(*args, "--reps", "3", "--tokens", "4", "--threads", "1", "--json").json()
    assert result["task"] == task and result["threads"] == 1
    rows = result["results"]
    assert [(row["policy"], row["context"]) for row in rows] == [
        (policy, context) for context in (64, 200) for policy in ("full", "gsa@8", "streaming:tokens=32")
    ]
    for row in rows:
        assert 0 < row["ms_per_token_min"] <= row["ms_per_token"] <= row["ms_per_token_max"]
        assert row["tokens_per_second"] == pytest.approx(1000 / row["ms_per_token"])
        assert row["reps"] == 3
        if row["policy"] == "full":
            assert row["fraction_read"] == pytest.approx(1)
        if row["policy"].startswith("streaming") and row["context"] == 200:
            assert row["fraction_read"] < 0.5


def test_table(gsa, model):
    result = gsa("bench", "decode", "--model", model, "--context", "50", "--reps", "1", "--tokens", "2")
    assert result.code == 0
    assert "ms/token" in result.out and "full" in result.out


@pytest.mark.parametrize("args", [("--context", "0"), ("--context", "many"), ("--reps", "0"), ("--policies", "x")])
def test_bad_options(gsa, model, args):
    result = gsa("bench", "decode", "--model", model, *args)
    assert result.code == 2 and result.error_line()


def test_train_json_has_a_row_per_policy_and_context(gsa, model):
    args = ("bench", "train", "--model", model, "--context", "64,200", "--batch-tokens", "128")
    args += ("--policies", "gsa@8,gsa@4-4,full")
    result = gsa(*args, "--reps", "3", "--rank", "4", "--dtype", "f32", "--threads", "1", "--json").json()
    assert (result["task"], result["train"], result["rank"], result["dtype"]) == ("train", "lora", 4, "f32")
    rows = result["results"]
    assert [(row["policy"], row["context"], row["rows"]) for row in rows] == [
        (policy, context, rows) for context, rows in ((64, 2), (200, 1)) for policy in ("gsa@8", "gsa@4-4", "full")
    ]
    for row in rows:
        assert 0 < row["ms_per_step_min"] <= row["ms_per_step"] <= row["ms_per_step_max"]
        assert row["raw_tokens_per_second"] == pytest.approx(1000 * row["rows"] * row["context"] / row["ms_per_step"])
        gists_per_raw = row["tokens_per_second"] / row["raw_tokens_per_second"] - 1
        if row["policy"] == "full":
            assert gists_per_raw == pytest.approx(0)
        elif row["policy"] == "gsa@8":  # chunks of 8 to 12 tokens, and a last one of any length
            assert 1 / 13 < gists_per_raw < 1 / 7
        else:
            assert 1 / 7 < gists_per_raw < 1 / 2
        assert 0 < row["share_of_peak"] < 1
        assert row["peak_memory_bytes"] > 1 << 20
        assert row["reps"] == 3


@pytest.mark.parametrize("options", [("--train", "full"), ("--checkpoint-activations",)])
def test_train_table(gsa, model, options):
    result = gsa("bench", "train", "--model", model, "--context", "50", "--batch-tokens", "50", "--reps", "1", *options)
    assert result.code == 0, result.err
    assert "ms/step" in result.out and "gsa@16" in result.out and "full" in result.out


def test_train_reports_a_length_that_does_not_fit(gsa, model):
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))

    args = ("bench", "train", "--model", model, "--context", "64,4000000", "--policies", "full", "--batch-tokens", "64")
    rows = gsa(*args, "--reps", "1", "--threads", "1", "--json", preexec_fn=limit).json()["results"]
    assert [row["context"] for row in rows] == [64, 4000000]
    assert rows[0]["ms_per_step"] > 0 and "error" not in rows[0]
    assert rows[1]["error"] == "out of memory" and "ms_per_step" not in rows[1]


@pytest.mark.parametrize(
    "task, args, said",
    [
        ("train", ("--policies", "meanpool"), "meanpool"),
        ("train", ("--policies", "full:adapter=mine"), "adapter"),
        ("train", ("--context", "1"), "--context"),
        ("train", ("--batch-tokens", "0"), "--batch-tokens"),
        ("train", ("--train", "gists"), "--train"),
        ("train", ("--tokens", "3"), "--tokens"),
        ("train", ("--segment", "64"), "--segment"),
        ("train", ("--adapter", "mine"), "--adapter"),
        ("decode", ("--rank", "4"), "--rank"),
        ("prefill", ("--checkpoint-activations",), "--checkpoint-activations"),
    ],
)
def test_options_that_do_not_belong_to_a_task(gsa, model, task, args, said):
    result = gsa("bench", task, "--model", model, *args)
    assert result.code == 2 and said in result.error_line()
