"""gsa eval: answers to tasks, their scores, and a run that is stopped and goes on."""

import gzip
import json
import lzma
import os
import re
import shlex
import signal
import subprocess
import time

import pytest

from conftest import FOX, PROGRAM, WINDOW

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
    assert "score (95 %)" in done.out and "foxes" in done.out
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
        (to_lines(items(1)) + to_lines(items(1, _id="x", answers=["a", ""])), "foxes.jsonl:2: an answer is empty"),
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
    assert "no format 'nope' (see gsa eval --list)" in refuse("--tasks", f"nope={task}")
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
    line = refuse(*args, "--adapter", adapters[0], "--temperature", 1)
    assert "temperature 0 there, temperature 1 here" in line
    assert records.read_bytes() == whole
    assert gsa(*arguments(*args, "--adapter", adapters[0])).code == 0
    for option, name in (("--records", "records"), ("--report", "report.md")):
        path = tmp_path / "nowhere" / name
        line = refuse("--tasks", task, option, path, code=FAILURE)
        assert line == f"eval: {option} {path}: there is no folder {path.parent}: make it first"


def test_ctrl_c_leaves_whole_records_to_go_on_from(gsa, arguments, task, tmp_path):
    task.write_text(to_lines(items(200, documents=[FOX * 60])))
    records = tmp_path / "records.jsonl"
    command = arguments("--tasks", task, "--workers", 2, "--records", records)
    started = subprocess.Popen([PROGRAM, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not records.exists() or records.read_bytes().count(b"\n") < 1 + 2 * len(POLICIES):
        assert time.monotonic() < deadline and started.poll() is None
        time.sleep(0.01)
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=60)
    assert started.returncode == 130 and out == b"", err
    note = f"gsa: eval: stopped: finished answers are kept in {records}; the same command goes on from there"
    assert err.decode().splitlines()[-1] == note
    text = records.read_text()
    assert text.endswith("\n") and text.count("\n") < 1 + 200 * len(POLICIES)
    done = [json.loads(line)["id"] for line in text.splitlines()[1:]]
    assert all(done.count(name) == len(POLICIES) for name in done)

    options = ("--tasks", task, "--limit", 10, "--json")
    resumed = gsa(*arguments(*options, "--records", records)).json()
    assert resumed == gsa(*arguments(*options)).json()
    assert records.read_text().startswith(text)


@pytest.mark.parametrize("options, note", [((), "lost, as there is no --records"), (("--quiet",), "")])
def test_ctrl_c_says_that_answers_are_lost(arguments, task, options, note):
    task.write_text(to_lines(items(4000, documents=[FOX * 60])))
    started = start(arguments("--tasks", task, *options))
    time.sleep(2)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)
    last = (err.decode().splitlines() or [""])[-1]
    assert started.returncode == 130 and (note in last if note else err == b""), err


def start(command, env=None):
    return subprocess.Popen(
        [PROGRAM, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **(env or {})}
    )


def wait_for_lines(process, path, num_lines):
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < num_lines:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)


def test_a_killed_run_loses_the_item_in_flight_at_most(gsa, arguments, task, tmp_path):
    task.write_text(to_lines(items(60, documents=[FOX * 60])))
    records = tmp_path / "records.jsonl"
    command = arguments("--tasks", task, "--records", records, "--quiet", "--json")
    finished = 1
    for more in (3, 7):  # twice, in different places
        process = start(command)
        wait_for_lines(process, records, finished + more * len(POLICIES))
        process.kill()
        process.communicate(timeout=60)
        lines = records.read_text().splitlines()
        whole = [line for line in lines[1:] if line.endswith("}")]
        assert len(whole) >= finished - 1 + more * len(POLICIES)
        finished = 1 + len(whole)
    kept = records.read_text()
    kept = kept[: kept.rindex("\n") + 1]
    resumed = gsa(*command).json()
    assert resumed == gsa(*arguments("--tasks", task, "--json")).json()
    text = records.read_text()
    assert text.startswith(kept)
    keys = [(line["id"], line["policy"]) for line in map(json.loads, text.splitlines()[1:])]
    assert len(keys) == len(set(keys)) == 60 * len(POLICIES)


def test_processes_share_the_items(gsa, arguments, task, tmp_path):
    task.write_text(to_lines(items(13)))
    records = tmp_path / "records.jsonl"
    expected = gsa(*arguments("--tasks", task, "--json")).json()
    command = arguments("--tasks", task, "--records", records, "--json")
    ranks = [
        start(command, {"RANK": str(rank), "WORLD_SIZE": "3", "LOCAL_RANK": str(rank)}) for rank in range(3)
    ]
    outputs = [process.communicate(timeout=120) for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0, 0], outputs
    assert json.loads(outputs[0][0]) == expected
    assert outputs[1][0] == outputs[2][0] == b""
    assert records.read_text().count("\n") == 1 + 13 * len(POLICIES)
    assert list(tmp_path.glob("records.jsonl.rank*")) == []
    assert "--records" in gsa(*arguments("--tasks", task), env={"RANK": "0", "WORLD_SIZE": "2"}).error_line()
    assert "--records" in gsa(*arguments("--tasks", task, "--finished")).error_line()
    assert "none.jsonl" in gsa(*arguments("--tasks", task, "--finished", "--records", tmp_path / "none.jsonl")).error_line()


def test_a_single_process_does_what_a_lost_one_left(gsa, arguments, task, tmp_path):
    records = tmp_path / "records.jsonl"
    command = arguments("--tasks", task, "--records", records, "--json")
    done = gsa(*command, env={"RANK": "1", "WORLD_SIZE": "2"})  # process 0 never comes
    assert done.code == 0 and done.out == "" and (tmp_path / "records.jsonl.rank1").exists()
    done = gsa(*command, "--finished", "--report", tmp_path / "report.md")
    so_far = done.json()
    note = "2 of 5 items are finished: task foxes 2 of 5"
    assert done.err.splitlines()[-1] == f"gsa: eval: {note}"
    assert f"Not the whole run: {note}." in (tmp_path / "report.md").read_text()
    assert gsa(*command, "--finished", "--quiet").err == ""
    assert [row["n"] for row in so_far["results"]] == [2] * len(POLICIES) and not records.exists()
    assert gsa(*command).json() == gsa(*arguments("--tasks", task, "--json")).json()
    assert records.read_text().count("\n") == 1 + 5 * len(POLICIES)
    assert list(tmp_path.glob("records.jsonl.rank*")) == []
    assert "finished" not in gsa(*command, "--finished").err


def test_process_0_says_that_it_waits(arguments, task, tmp_path):
    command = arguments("--tasks", task, "--records", tmp_path / "r.jsonl", "--limit", 3, policies="full")
    process = start(command, {"RANK": "0", "WORLD_SIZE": "2"})
    lines = iter(process.stderr.readline, b"")
    line = next(line for line in lines if b"waiting" in line).decode()
    assert "1 of 3 items are missing; if one was lost, start again" in line and "r.jsonl" in line
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130


def test_generated_items_are_never_cut(gsa, arguments, refuse):
    for kind in ("passkey", "kv", "lines"):
        line = refuse("--tasks", f"{kind}:lengths={WINDOW}:depths=50")
        assert f"task {kind}, item '256-50-0': " in line and "more than the 256 that" in line
        assert "lower lengths by " in line and "come on top" in line
    options = ("--tasks", "passkey:lengths=150,256:depths=50", "--max-context", 320)
    assert "item '256-50-0'" in refuse(*options)
    done = gsa(*arguments(*options, "--keep-going", "--json"))
    result = json.loads(done.out)
    assert done.code == FAILURE and [failure["id"] for failure in result["failures"]] == ["256-50-0"]
    assert [(row["n"], row["truncated"]) for row in result["results"]] == [(1, 0)] * len(POLICIES)


def test_generated_items_to_set_budgets_on_fit_too(refuse):
    spec = "passkey:lengths=150,256:depths=50"
    line = refuse("--tasks", spec, "--max-context", 320, "--match", "0.5", "--calibration-items", 1, policies="full,streaming")
    assert "task passkey, item '256-50-0'" in line


def test_short_answers_are_noted(gsa, arguments, task):
    note = "gsa: eval: --max-tokens 4 is less than the formats allow for answers of foxes (32)"
    done = gsa(*arguments("--tasks", task, "--limit", 1))
    assert note in done.err.splitlines()
    whole = [32 if part == 4 else part for part in arguments("--tasks", task, "--limit", 1)]
    assert "--max-tokens" not in gsa(*whole).err


def test_batches_give_the_same_results(gsa, arguments, task):
    # One row at a time takes other kernels than several: sums in another order, and rarely another choice of chunks.
    exact = ("--tasks", task, "--dtype", "f32", "--json")
    expected = gsa(*arguments(*exact)).json()
    together = gsa(*arguments(*exact, "--batch", 3)).json()
    for alone, batched in zip(expected.pop("results"), together.pop("results"), strict=True):
        assert alone.keys() == batched.keys()
        for key in ("task", "policy", "n", "score", "context_tokens", "answer_tokens"):
            assert alone[key] == batched[key], key
        assert alone["fraction_read"] == pytest.approx(batched["fraction_read"], rel=0.01)
    assert together == expected


def test_keep_going_names_what_it_skips(gsa, arguments, refuse, task, tmp_path):
    lines = to_lines(items(3)).splitlines()
    lines[1] = '{"input": '
    lines.append(json.dumps({"_id": "long", "input": "Who? " * 400, "context": FOX, "answers": ["x"]}))
    lines.append(json.dumps({"_id": "list", "input": "Who?", "context": FOX, "answers": "x"}))
    task.write_text("\n".join(lines))
    assert "foxes.jsonl:2" in refuse("--tasks", task)
    records = tmp_path / "records.jsonl"
    done = gsa(*arguments("--tasks", task, "--keep-going", "--records", records, "--json"))
    assert done.code == FAILURE, done.err
    result = json.loads(done.out)
    assert [row["n"] for row in result["results"]] == [2] * len(POLICIES)
    broken, no_list, too_long = result["failures"]
    assert "foxes.jsonl:2" in broken["error"] and "foxes.jsonl:5" in no_list["error"]
    assert too_long["id"] == "long" and "trained for" in too_long["error"]
    table = gsa(*arguments("--tasks", task, "--keep-going", "--records", records))
    assert table.code == FAILURE and table.out.count("skipped") == 3


def test_processes_name_what_each_of_them_skipped(gsa, arguments, task, tmp_path):
    records = list(items(4))
    for i in (0, 3):
        records[i]["input"] = "Who? " * 400
    task.write_text(to_lines(records))
    command = arguments("--tasks", task, "--keep-going", "--records", tmp_path / "r.jsonl", "--json")
    ranks = [start(command, {"RANK": str(rank), "WORLD_SIZE": "2"}) for rank in range(2)]
    outputs = [process.communicate(timeout=120) for process in ranks]
    assert [process.returncode for process in ranks] == [FAILURE, FAILURE], outputs
    result = json.loads(outputs[0][0])
    assert [failure["id"] for failure in result["failures"]] == ["q0", "q3"]
    assert [row["n"] for row in result["results"]] == [2] * len(POLICIES)


def test_long_items_are_cut_in_the_middle(gsa, arguments, task):
    task.write_text(to_lines(items(4, documents=[FOX * 2, FOX * 40])))
    command = arguments("--tasks", task, "--max-context", 200, policies="full")
    row = gsa(*command, "--json").json()["results"][0]
    assert row["truncated"] == 4 and row["context_tokens"] <= 200
    assert "4 of 4 items were cut in the middle" in gsa(*command).out


def test_policies_are_held_to_one_budget(gsa, arguments, task, tmp_path):
    task.write_text(to_lines(items(9, documents=[FOX * 14])))
    records = tmp_path / "records.jsonl"
    policies = "full,gist-only@4,streaming,h2o,snapkv,quest@16"
    command = arguments("--tasks", task, "--match", "gist-only@4,0.6", "--calibration-items", 3, "--records", records,
                        "--baseline", "gist-only@4", "--json", policies=policies)  # fmt: skip
    result = gsa(*command).json()
    assert [table["target"] for table in result["equal_budgets"]] == ["gist-only@4", "0.6"]
    for table in result["equal_budgets"]:
        assert table["n"] == 6 and table["below_floor"] == 0
        read = {row["policy"]: row["fraction_read"] for row in table["policies"]}
        assert f"streaming:match={table['target']}" in read
        for fraction in read.values():
            assert fraction == pytest.approx(table["fraction_wanted"], rel=0.05)
        assert len(read) + len(table["unmatched"]) == 4 + (table["target"] == "gist-only@4")
        aim = read.get("gist-only@4", 0.6) if table["target"] != "0.6" else 0.6
        assert table["fraction_target"] == aim
        for row in table["policies"]:
            assert row["off_target"] == (abs(row["fraction_read"] - aim) > 0.05 * aim)
            assert row["adapter"] is None and row["context_read"] and row["query_aware"] in (True, False)
    against = {row["policy"] for row in result["comparisons"]}
    assert "full" in against and all(row["baseline"] == "gist-only@4" for row in result["comparisons"])
    assert (tmp_path / "records.jsonl.budgets0.json").exists()
    assert gsa(*command).json() == result
    answered = {json.loads(line)["id"] for line in records.read_text().splitlines()[1:]}
    assert answered == {f"q{i}" for i in (0, 2, 3, 5, 6, 8)}, "the middle of each third sets budgets"


@pytest.fixture
def matching(arguments, task, tmp_path):
    """A run whose budgets are matched, of some policies; its task has items long enough for that."""
    task.write_text(to_lines(items(6, documents=[FOX * 14])))

    def make(policies, *options, target="0.6"):
        return arguments("--tasks", task, "--match", target, "--calibration-items", 3, "--records",
                         tmp_path / "records.jsonl", "--json", *options, policies=policies)  # fmt: skip

    return make


def test_policies_that_come_later_get_budgets(gsa, matching, tmp_path):
    records, budgets = tmp_path / "records.jsonl", tmp_path / "records.jsonl.budgets0.json"
    rows = {}
    for policies in ("full,streaming", "full,streaming,h2o"):
        result = gsa(*matching(policies)).json()
        now = {row["policy"]: row for row in result["results"]}
        assert len(now) == policies.count(",") + 1
        assert len(result["equal_budgets"][0]["policies"]) == policies.count(",")
        assert rows.items() <= now.items(), "what is there is not done again"
        rows = now
    kept = budgets.read_bytes(), records.read_bytes()
    for policies in ("full,streaming", "full,h2o"):
        for options in ((), ("--finished",)):
            result = gsa(*matching(policies, *options)).json()
            assert [row["policy"] for row in result["results"]] == ["full", policies.split(",")[1] + ":match=0.6"]
            assert len(result["equal_budgets"][0]["policies"]) == 1
            assert (budgets.read_bytes(), records.read_bytes()) == kept
    assert "no budget of snapkv" in gsa(*matching("full,snapkv", "--finished")).error_line()


def test_processes_wait_for_budgets_of_all_policies(gsa, matching, tmp_path):
    assert gsa(*matching("full,streaming")).code == 0
    command = matching("full,streaming,h2o")
    ranks = [start(command, {"RANK": str(rank), "WORLD_SIZE": "2"}) for rank in range(2)]
    outputs = [process.communicate(timeout=120) for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], outputs
    assert len(json.loads(outputs[0][0])["results"]) == 3
    assert list(tmp_path.glob("*.part")) == []
    sign_of_life = tmp_path / "records.jsonl.budgets0.part"
    sign_of_life.mkdir()  # where others look for it, and it cannot be written
    alone = gsa(*matching("full,snapkv"), env={"RANK": "0", "WORLD_SIZE": "2"})
    assert alone.code == USAGE and sign_of_life.name in alone.error_line()


def test_items_that_changed_are_answered_again(gsa, arguments, task, tmp_path):
    records = tmp_path / "records.jsonl"

    def run(change, *options):
        task.write_text(to_lines(items(3, **change)))
        return gsa(*arguments("--tasks", task, "--json", *options)).json()

    first = run({}, "--records", records)
    text = records.read_text()
    predictions = [json.loads(line)["prediction"] for line in text.splitlines()[1:]]
    prediction = next(filter(str.strip, predictions))
    for i, change in enumerate([{"documents": [FOX * 4]}, {"answers": [prediction]}]):
        changed = run(change, "--records", records)
        assert changed == run(change) and changed != first
        assert records.read_text().count("\n") == 1 + (2 + i) * 3 * len(POLICIES)
    kept = records.read_bytes()
    assert run({}, "--records", records) == first and records.read_bytes() == kept, "answers to all are there"

    older = tmp_path / "older.jsonl"  # by a version that wrote no digests
    older.write_text(re.sub(r'"item":"[0-9a-f]{16}",', "", text))
    assert older.stat().st_size < len(text)
    kept = older.read_bytes()
    assert run({}, "--records", older) == first and older.read_bytes() == kept


def test_budgets_are_of_the_items_they_were_set_on(gsa, matching, task, tmp_path):
    budgets = tmp_path / "records.jsonl.budgets0.json"
    command = matching("full,streaming")
    gsa(*command).json()
    kept = json.loads(budgets.read_text())
    changed = list(items(6, documents=[FOX * 14]))
    changed[1]["documents"] = [FOX * 9]  # one that budgets are set on
    task.write_text(to_lines(changed))
    result = gsa(*command).json()
    assert json.loads(budgets.read_text())["items"] != kept["items"]
    (tmp_path / "records.jsonl").unlink()
    assert gsa(*command).json() == result, "and answers are those of the new budgets"


def test_processes_share_the_search_for_budgets(gsa, arguments, task, tmp_path):
    task.write_text(to_lines(items(6, documents=[FOX * 14])))
    other = tmp_path / "other.jsonl"
    other.write_text(to_lines(items(6, documents=[FOX * 10])))
    options = ("--tasks", f"{task},{other}", "--match", "0.6", "--calibration-items", 3, "--json")
    command = arguments(*options, "--records", tmp_path / "records.jsonl", policies="full,streaming,snapkv")
    ranks = [start(command, {"RANK": str(rank), "WORLD_SIZE": "3"}) for rank in range(3)]
    outputs = [process.communicate(timeout=120) for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0, 0], outputs
    assert json.loads(outputs[0][0]) == gsa(*arguments(*options, policies="full,streaming,snapkv")).json()
    assert len(list(tmp_path.glob("records.jsonl.budgets*.json"))) == 2


def test_every_row_states_its_conditions(gsa, arguments, model, task, tmp_path, make_adapter):
    adapter = tmp_path / "gists.safetensors"
    make_adapter(adapter, model, chunk_sizes="8")
    policies = "full:adapter=none,gsa@8,streaming:tokens=64,meanpool@8:adapter=none"
    command = arguments("--tasks", task, "--limit", 1, "--adapter", adapter, "--json", policies=policies)
    stated = [(row["adapter"], row["context_read"], row["query_aware"]) for row in gsa(*command).json()["results"]]
    assert stated == [
        (None, "full attention", False),
        ("gists", "gist mask", True),
        ("gists", "window", False),
        (None, "full attention", True),
    ]


def test_reports(gsa, arguments, refuse, task, tmp_path):
    paths = [tmp_path / f"report.{ending}" for ending in ("html", "md", "csv")]
    options = [part for path in paths for part in ("--report", path)]
    assert gsa(*arguments("--tasks", task, *options)).code == 0
    for path in paths:
        text = path.read_text()
        assert "foxes" in text and "streaming:tokens=64" in text
    assert "gsa eval --tasks" in paths[1].read_text()
    apart = tmp_path / "it's a report.md"
    command = arguments("--tasks", task, "--report", apart, "--system", "")
    assert gsa(*command).code == 0
    (line,) = (line for line in apart.read_text().splitlines() if line.startswith("gsa eval"))
    words = shlex.split(line)
    assert words[:2] == ["gsa", "eval"] and words.count(str(apart)) == 1
    assert words[words.index("--system") + 1] == ""
    assert len(words) == 1 + len(command)
    assert "report.pdf" in refuse("--tasks", task, "--report", tmp_path / "report.pdf")


def test_perplexity_by_distance(gsa, arguments, tmp_path):
    book = tmp_path / "book.txt"
    book.write_text(FOX * 60)
    spec = f"perplexity:haystack={book}:lengths=32,128:predict=16:n=2"
    report = tmp_path / "report.csv"
    result = gsa(*arguments("--tasks", spec, "--report", report, "--json", policies="full,gsa@8,snapkv,h2o")).json()
    rows = result["results"]
    assert [row["n"] for row in rows] == [4] * 4 and all(row["metric"] == "perplexity" for row in rows)
    assert all(row["score"] > 1 and "f1" not in row for row in rows)
    assert rows[0]["fraction_read"] == pytest.approx(1)
    assert "haystack" in gsa(*arguments("--tasks", "perplexity")).error_line()


def test_list(gsa):
    done = gsa("eval", "--list")
    assert done.code == 0
    for name in ("hotpotqa", "LongBench", "rouge_l", "perplexity", "streaming"):
        assert name in done.out
    listed = gsa("eval", "--list", "--json").json()
    assert {"narrativeqa", "nq"} <= {row["format"] for row in listed["formats"]}
    assert {"full", "gsa", "quest"} <= {row["policy"] for row in listed["policies"]}


def test_bad_options_of_budgets_and_baselines(refuse, task):
    assert "baseline" in refuse("--tasks", task, "--baseline", "meanpool")
    assert "budget" in refuse("--tasks", task, "--match", "0.1", policies="full")
    assert "share" in refuse("--tasks", task, "--match", "1.5", policies="full,streaming")
    assert "empty entry" in refuse("--tasks", task, "--match", "0.1,", policies="full,streaming")
    assert "--calibration-items" in refuse("--tasks", task, "--match", "0.5", policies="full,streaming")
    assert "given twice" in refuse("--tasks", task, policies="full,full")
    assert "--batch" in refuse("--tasks", task, "--batch", 0)


def test_diagnostics(gsa, arguments, task, tmp_path):
    task.write_text(to_lines(items(3, answers=["lazy dog"])) + to_lines(items(1, _id="none", answers=["a hen"])))
    report = tmp_path / "report.html"
    command = arguments("--tasks", task, "--diagnostics", 2, "--report", report, policies="full,streaming:tokens=16")
    full, window = gsa(*command, "--json").json()["diagnostics"]
    assert full["n"] == window["n"] == 2 and full["policy"] == "full"
    assert full["answer_recall"] == pytest.approx(1) and full["mass_recovered"] == pytest.approx(1, abs=1e-3)
    assert window["answer_recall"] < 1 and window["mass_recovered"] < 1
    assert "recall of the answer" in report.read_text()
    assert "attention recovered" in gsa(*command).out
