"""gsa eval: answers to tasks, their scores, and a run that is stopped and goes on."""

import gzip
import json
import lzma
import signal
import subprocess
import time

import pytest

from conftest import FOX, PROGRAM

USAGE, FAILURE = 2, 1
POLICIES = ["full", "gsa@8", "streaming:tokens=64"]


def items(num, **changes):
    for i in range(num):
        record = {"_id": f"q{i}", "input": f"Who jumps {i}?", "documents": [FOX * (1 + i % 3), FOX], "answers": ["the fox"]}
        yield {**record, **changes}


def to_lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "foxes.jsonl"
    path.write_text(to_lines(items(5)))
    return path


@pytest.fixture
def arguments(model):
    def make(*options, policies=",".join(POLICIES)):
        return ["eval", "--model", model, "--policies", policies, "--max-tokens", 4, "--threads", 1, *options]

    return make


@pytest.fixture
def refuse(gsa, arguments):
    def run(*options, code=USAGE, **kwargs):
        done = gsa(*arguments(*options, **kwargs))
        assert done.code == code and done.out == "", (done.code, done.out, done.err)
        return done.error_line()

    return run


def test_json(gsa, model, arguments, task, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text(to_lines({"input": "Where?", "context": FOX, "answer": "here"} for _ in range(3)))
    result = gsa(*arguments("--tasks", f"{task},{other}", "--json")).json()
    assert result["model"] == str(model) and result["adapter"] is None
    rows = result["results"]
    assert [(row["task"], row["policy"], row["n"]) for row in rows] == [
        (name, policy, num) for name, num in (("foxes", 5), ("other", 3)) for policy in POLICIES
    ]
    for row in rows:
        for name in ("f1", "exact_match", "contains"):
            assert 0 <= row[name]["low"] <= row[name]["mean"] <= row[name]["high"] <= 100
        assert row["score"] == row["f1"]["mean"]
        assert 0 < row["answer_tokens"] <= 4 and row["context_tokens"] > 0
        assert 0 < row["fraction_read"] and 0 < row["prefill_fraction"]
        if row["policy"] == "full":
            assert row["fraction_read"] == pytest.approx(1) and row["prefill_fraction"] == pytest.approx(1)


def test_records_hold_what_ask_answers(gsa, model, arguments, task, tmp_path):
    records = tmp_path / "records.jsonl"
    gsa(*arguments("--tasks", task, "--limit", 1, "--records", records, "--json")).json()
    header, *lines = records.read_text().splitlines()
    assert list(json.loads(header)) == ["run"]
    (tmp_path / "1.txt").write_text(FOX)
    documents = ["--doc", tmp_path / "1.txt", "--doc", tmp_path / "1.txt"]
    asked = gsa("ask", "--model", model, *documents, "--question", "Who jumps 0?", "--max-tokens", 4, "--threads", 1,
                "--compare", ",".join(POLICIES), "--json").json()  # fmt: skip
    for line, row in zip(lines, asked["results"], strict=True):
        record = json.loads(line)
        assert (record["task"], record["id"], record["policy"]) == ("foxes", "q0", row["policy"])
        assert record["answer"] == row["answer"] and record["fraction_read"] == row["fraction_read"]
        assert record["prediction"] == (row["answer"].strip().splitlines() or [""])[0].strip()


def test_table_and_workers(gsa, arguments, task):
    done = gsa(*arguments("--tasks", task, "--limit", 2, "--workers", 2))
    assert done.code == 0, done.err
    assert "F1 (95 %)" in done.out and "foxes" in done.out
    assert [policy for policy in POLICIES if policy in done.out] == POLICIES
    assert "untrained" in done.err  # gsa@8 without an adapter
    assert gsa(*arguments("--tasks", task, "--limit", 2, "--quiet")).err == ""


def test_packed_tasks(gsa, arguments, task, tmp_path):
    expected = gsa(*arguments("--tasks", task, "--json")).json()["results"]
    for name, pack in (("gz", gzip.compress), ("xz", lzma.compress)):
        path = tmp_path / f"foxes.jsonl.{name}"
        path.write_bytes(pack(task.read_bytes()))
        assert gsa(*arguments("--tasks", path, "--json")).json()["results"] == expected


@pytest.mark.parametrize(
    "text, named",
    [
        ("", "foxes.jsonl: it is empty"),
        ("\n", "foxes.jsonl: it holds no records"),
        (to_lines(items(2)) + '{"input": ', "foxes.jsonl:3"),
        (to_lines(items(1)) + "[]\n", "foxes.jsonl:2"),
        (to_lines(items(1, answers=[])), "foxes.jsonl:1: has no 'answers'"),
        (to_lines(items(1, answers=None)), "foxes.jsonl:1: has no 'answers'"),
        (to_lines(items(1, input="")), "'input'"),
        (to_lines(items(1, documents=None)), "'documents'"),
        (to_lines(items(3, _id="twice")), "foxes.jsonl:2: another record has the _id 'twice'"),
    ],
)
def test_bad_tasks(refuse, task, text, named):
    task.write_text(text)
    assert named in refuse("--tasks", task)


def test_bad_options(refuse, task, tmp_path):
    assert "nowhere.jsonl" in refuse("--tasks", tmp_path / "nowhere.jsonl")
    assert "nonsense" in refuse("--tasks", task, policies="full,nonsense")
    assert "empty entry" in refuse("--tasks", task, policies="full,")
    assert "named 'foxes'" in refuse("--tasks", f"{task},{task}")
    assert "tasks" in refuse()
    assert "--workers" in refuse("--tasks", task, "--workers", 0)
    assert "--limit" in refuse("--tasks", task, "--limit", -1)
    task.write_text(to_lines(items(1, input="Who? " * 400)))
    assert "trained for" in refuse("--tasks", task)  # longer than the model's window


def test_records_of_another_run(gsa, arguments, refuse, task, tmp_path, make_adapter, model):
    records = tmp_path / "records.jsonl"
    adapters = [tmp_path / name / "gists.safetensors" for name in ("a", "b")]
    for adapter in adapters:
        adapter.parent.mkdir()
        make_adapter(adapter, model, chunk_sizes="8")
    adapters[1].write_bytes(adapters[1].read_bytes()[:-1] + b"?")  # the same name, other weights
    args = ("--tasks", task, "--limit", 1, "--records", records)
    assert gsa(*arguments(*args, "--adapter", adapters[0])).code == 0
    whole = records.read_bytes()
    for other in (
        (),
        ("--adapter", adapters[1]),
        ("--adapter", adapters[0], "--temperature", 1),
        ("--adapter", adapters[0], "--system", "Be brief."),
        ("--adapter", adapters[0], "--dtype", "bf16"),
    ):
        assert "another run" in refuse(*args, *other)
    assert records.read_bytes() == whole
    assert gsa(*arguments(*args, "--adapter", adapters[0])).code == 0
    assert "nowhere" in refuse("--tasks", task, "--records", tmp_path / "nowhere" / "records", code=FAILURE)


def test_ctrl_c_leaves_whole_records_to_go_on_from(gsa, arguments, task, tmp_path):
    task.write_text(to_lines(items(200, documents=[FOX * 60])))
    records = tmp_path / "records.jsonl"
    command = arguments("--tasks", task, "--workers", 2, "--records", records, "--quiet")
    started = subprocess.Popen([PROGRAM, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not records.exists() or records.read_bytes().count(b"\n") < 1 + 2 * len(POLICIES):
        assert time.monotonic() < deadline and started.poll() is None
        time.sleep(0.01)
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=60)
    assert started.returncode == 130 and out == b"", err
    text = records.read_text()
    assert text.endswith("\n") and text.count("\n") < 1 + 200 * len(POLICIES)
    done = [json.loads(line)["id"] for line in text.splitlines()[1:]]
    assert all(done.count(name) == len(POLICIES) for name in done)

    options = ("--tasks", task, "--limit", 10, "--json")
    resumed = gsa(*arguments(*options, "--records", records)).json()
    assert resumed == gsa(*arguments(*options)).json()
    assert records.read_text().startswith(text)
