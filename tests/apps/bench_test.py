"""gsa bench: what it prints, not how fast it is."""

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
