"""gsa bench: what it prints, not how fast it is."""

import json
import pathlib
import resource
import subprocess
import sys

import pytest

from conftest import WINDOW

BENCH = pathlib.Path(__file__).parents[2] / "bench"


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
        assert row["store"] == "read" and row["peak_memory_bytes"] > row["store_bytes"] > 0
    assert result["stream_bytes_per_second"] > 1e8 and result["peak_flops"] > 1e8
    assert result["load_peak_memory_bytes"] > 1 << 20


def kv_bytes_per_key(info):
    """Keys and values of a token in all layers and KV heads of a model in f32."""
    return 2 * 4 * info["layers"] * info["kv_heads"] * info["head_dim"]


def test_bytes_of_a_decode_step(gsa, model):
    args = ("--context", "200", "--policies", "full,gsa@8", "--reps", "1", "--tokens", "4", "--dtype", "f32", "--json")
    result = gsa("bench", "decode", "--model", model, *args).json()
    info = gsa("info", "--model", model, "--dtype", "f32", "--json").json()
    full, gist = result["results"]
    # A prompt of 4 tokens; the queries of its last one and of the 4 after it are counted.
    assert full["kv_bytes_per_token"] == pytest.approx((200 + 6) * kv_bytes_per_key(info), abs=3 * kv_bytes_per_key(info))
    assert gist["kv_bytes_per_token"] == pytest.approx(gist["fraction_read"] * full["kv_bytes_per_token"], rel=0.02)
    for row in (full, gist):
        assert 0 < row["weight_bytes_per_token"] <= info["memory"]["weight_bytes"]
        assert row["bytes_per_token"] == row["weight_bytes_per_token"] + row["kv_bytes_per_token"]
        moved = row["bytes_per_token"] / (row["ms_per_token"] / 1000)
        assert row["share_of_stream"] == pytest.approx(moved / result["stream_bytes_per_second"])
    assert gist["store_bytes"] > full["store_bytes"] == 200 * kv_bytes_per_key(info)


def test_flops_of_a_reading(gsa, model):
    args = ("--context", "40,200", "--policies", "full", "--reps", "1", "--dtype", "f32", "--json")
    result = gsa("bench", "prefill", "--model", model, *args).json()
    info = gsa("info", "--model", model, "--dtype", "f32", "--json").json()
    per_key = 4 * info["layers"] * info["heads"] * info["head_dim"]
    short, long = result["results"]
    assert long["flops_per_token"] - short["flops_per_token"] == pytest.approx((200 - 40) / 2 * per_key)
    done = long["flops_per_token"] / (long["ms_per_token"] / 1000)
    assert long["share_of_peak"] == pytest.approx(done / result["peak_flops"])


def test_decode_above_the_window_has_random_keys(gsa, model):
    policies = "full,gsa@8,gsa@4-4,meanpool,quest,streaming:tokens=32"
    args = ("bench", "decode", "--model", model, "--context", f"{WINDOW},{4 * WINDOW}", "--policies", policies)
    rows = gsa(*args, "--reps", "1", "--tokens", "2", "--threads", "1", "--json").json()["results"]
    assert [row["store"] for row in rows] == 6 * ["read"] + 6 * ["random"]
    for read, random in zip(rows[:6], rows[6:]):
        assert read["policy"] == random["policy"] and random["store_bytes"] == pytest.approx(4 * read["store_bytes"], rel=0.1)
        assert 0 < random["fraction_read"] <= 1.01
    table = gsa(*args[:4], "--context", 4 * WINDOW, "--reps", "1", "--tokens", "2").out
    assert "random keys" in table and "of stream" in table


def test_decode_from_memory_alone(gsa, model):
    args = ("bench", "decode", "--model", model, "--context", 40, "--policies", "full", "--reps", 1, "--tokens", 2)
    result = gsa(*args, "--cold", "--json").json()
    assert result["cold"] and result["results"][0]["ms_per_token"] > 0
    assert "caches were emptied" in gsa(*args, "--cold").out


def test_store_of_decode(gsa, model):
    def stores(store, policies):
        args = ("--context", f"50,{2 * WINDOW}", "--policies", policies, "--reps", "1", "--tokens", "2", "--json")
        return [row["store"] for row in gsa("bench", "decode", "--model", model, "--store", store, *args).json()["results"]]

    assert stores("random", "gsa@8") == ["random", "random"]
    assert stores("read", "h2o:tokens=32") == ["read", "read"]
    result = gsa("bench", "decode", "--model", model, "--context", 2 * WINDOW, "--policies", "full,h2o:tokens=32")
    assert result.code == 2 and "--store read" in result.error_line()


def test_table(gsa, model):
    result = gsa("bench", "decode", "--model", model, "--context", "50", "--reps", "1", "--tokens", "2")
    assert result.code == 0
    assert "ms/token" in result.out and "full" in result.out


@pytest.mark.parametrize("task", ["prefill", "decode"])
def test_a_context_that_does_not_fit_is_named_before_the_work(gsa, model, task):
    result = gsa("bench", task, "--model", model, "--context", "64,1000000000", "--policies", "full,gsa@8")
    assert result.code == 1 and result.out == ""
    assert "1000000000 tokens" in result.error_line() and "--context" in result.error_line()


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
        ("prefill", ("--store", "random"), "--store"),
        ("prefill", ("--cold",), "--cold"),
        ("decode", ("--store", "empty"), "--store"),
        ("decode", ("--items", "3"), "--items"),
        ("eval", ("--context", "64"), "--context"),
        ("eval", ("--tasks", "none.jsonl"), "none.jsonl"),
    ],
)
def test_options_that_do_not_belong_to_a_task(gsa, model, task, args, said):
    result = gsa("bench", task, "--model", model, *args)
    assert result.code == 2 and said in result.error_line()


def test_eval(gsa, model, document, tmp_path):
    prompts, task = tmp_path / "prompts.jsonl", tmp_path / "foxes.jsonl"
    record = {"context": document.read_text(), "answers": ["the fox"]}
    task.write_text("".join(json.dumps({"input": f"Who jumps {i}?", **record}) + "\n" for i in range(9)))
    args = ("bench", "eval", "--model", model, "--tasks", task, "--items", 7, "--threads", 1)
    result = gsa(*args, "--policies", "full,streaming:tokens=32", "--prompts", prompts, "--reps", 2, "--json").json()
    assert result["task"] == "eval" and result["threads"] == 1
    assert [row["policy"] for row in result["results"]] == ["full", "streaming:tokens=32"]
    for row in result["results"]:
        assert row["items"] == 7 and row["reps"] == 2
        assert 0 < row["seconds_per_item_min"] <= row["seconds_per_item"] <= row["seconds_per_item_max"]
        assert 0 < row["answer_tokens"] <= 32
    assert result["results"][0]["fraction_read"] == pytest.approx(1)
    lines = [json.loads(line) for line in prompts.read_text().splitlines()]
    assert len(lines) == 7 and all(line["max_tokens"] == 32 and line["ends"] for line in lines)
    assert len(lines[0]["ids"]) > result["results"][0]["context_tokens"]
    assert "s/item" in gsa(*args, "--batch", 4).out


@pytest.mark.parametrize("name", ["q4_0", "q8_0", "bf16"])
def test_a_file_in_another_format_is_the_same_model(gsa, models, tmp_path, name):
    source, out = models / "llama-f32" / "model.gguf", tmp_path / "other.gguf"
    subprocess.run([sys.executable, "-B", BENCH / "requantize.py", source, name, out], check=True)
    assert out.stat().st_size < source.stat().st_size and list(tmp_path.iterdir()) == [out]
    old, new = (gsa("info", "--model", path, "--json").json() for path in (source, out))
    assert {key: old[key] for key in old if key not in ("model", "memory")} == {
        key: new[key] for key in new if key not in ("model", "memory")
    }


FAKE_LLAMA_BENCH = """#!/bin/sh
if [ "$1" = --version ]; then echo "version: 1"; exit; fi
echo "$@" >> "$0.calls"
echo '[{"samples_ns": [8000000, 16000000, 12000000]}]'
"""


def test_peer_keeps_slow_figures(model, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCH / "peers"))
    import llama_cpp_peer as peer

    program = tmp_path / "llama-bench"
    program.write_text(FAKE_LLAMA_BENCH)
    program.chmod(0o755)
    calls = tmp_path / "llama-bench.calls"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*more, slow_seconds=-1):
        monkeypatch.setattr(peer, "SLOW_SECONDS", slow_seconds)
        args = ["peer", "decode", "--model", model, "--context", "64,128", "--tokens", "4", "--llama-bench", program, *more]
        monkeypatch.setattr(sys, "argv", list(map(str, args)))
        peer.main()
        return json.loads(capsys.readouterr().out), len(calls.read_text().splitlines())

    first, num_calls = run(slow_seconds=60)
    assert num_calls == 2 and not (tmp_path / "cache").exists()
    assert [(row["context"], row["ms_per_token"], row["ms_per_token_min"]) for row in first["results"]] == [
        (64, 3, 2), (128, 3, 2)]  # of 4 tokens each
    assert "-d 64" in calls.read_text() and "-fa 1" in calls.read_text()
    kept, num_calls = run()
    assert num_calls == 4 and run() == (kept, 4)
    assert run("--threads", "1")[1] == 6, "other threads, other figures"
    assert run("--refresh")[1] == 8


def test_peer_says_when_there_is_none(model, tmp_path):
    command = [sys.executable, "-B", BENCH / "peers" / "llama_cpp_peer.py", "prefill", "--model", model]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": str(tmp_path)})
    assert done.returncode == 1 and "--llama-bench" in done.stderr
