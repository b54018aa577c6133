"""gsa train as a user runs it: from text to an adapter that answers, stopped and resumed, and refused."""

import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import time
import xml.etree.ElementTree

import pytest

from conftest import FOX, PROGRAM

USAGE, FAILURE = 2, 1
ROW_LEN = 64


def write_text(path, num_words=4000, seed=3):
    draw = random.Random(seed)
    words = "the quick brown fox jumps over a lazy dog and one more cat sees it all".split()
    path.write_text(" ".join(draw.choice(words) for _ in range(num_words)))
    return path


@pytest.fixture(scope="module")
def shard(gsa, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cpt")
    done = gsa("train", "prepare", "cpt", "--model", model, "--data", write_text(folder / "text.txt"), "--row-len", ROW_LEN,
               "--out", folder / "text.gsa", "--quiet")  # fmt: skip
    assert done.code == 0, done.err
    return folder / "text.gsa"


@pytest.fixture(scope="module")
def questions(gsa, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ft")
    with open(folder / "questions.jsonl", "w") as file:
        for i in range(30):
            record = {"question": f"Who has {i}?", "answer": f"fox {i}", "passages": [f"The fox {i} has it. " + FOX]}
            file.write(json.dumps(record) + "\n")
    done = gsa("train", "prepare", "ft", "--model", model, "--data", folder / "questions.jsonl", "--out", folder / "questions.gsa",
               "--quiet")  # fmt: skip
    assert done.code == 0, done.err
    return folder / "questions.gsa"


@pytest.fixture
def arguments(model, shard):
    """A command line of `gsa train cpt`; later options win over earlier ones."""

    def make(out, *options, steps=6):
        defaults = {"--model": model, "--data": shard, "--out": out, "--steps": steps, "--rows": 2, "--row-len": ROW_LEN,
                    "--chunks": "4,8,4-4", "--rank": 4, "--threads": 1, "--loader-threads": 1, "--dtype": "f32"}  # fmt: skip
        options = list(options)
        for name, value in defaults.items():
            if name not in options:
                options += [name, value]
        return ["train", "cpt", *options]

    return make


@pytest.fixture
def train(gsa, arguments):
    def run(out, *options, steps=6, **kwargs):
        done = gsa(*arguments(out, "--quiet", *options, steps=steps), **kwargs)
        assert done.code == 0, done.err
        return (out / "adapter.safetensors").read_bytes()

    return run


@pytest.fixture
def refuse(gsa, arguments):
    def run(out, *options, code=USAGE, **kwargs):
        done = gsa(*arguments(out, *options), **kwargs)
        assert done.code == code, (done.code, done.err)
        return done.error_line()

    return run


def start(arguments):
    return subprocess.Popen([PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def log_lines(out):
    lines = []
    for line in (out / "log.jsonl").read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            pass  # being written
    return lines


def wait_for_step(out, step, deadline=60):
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        if (out / "log.jsonl").exists() and any(line["step"] >= step for line in log_lines(out)):
            return
        time.sleep(0.01)
    raise AssertionError(f"no step {step} in {deadline} s")


def test_text_to_answer(gsa, model, shard, arguments, tmp_path, document):
    """As the example of the README: the loss falls, the adapter is taken by ask, the curves are drawn."""
    out = tmp_path / "run"
    done = gsa(*arguments(out, "--validation", shard, "--eval-chunks", "full,8", "--eval-windows", 4, "--json", "--lr", 0.01, steps=25))
    result = json.loads(done.out.splitlines()[-1])
    assert result["steps"] == 25 and result["files"] == [str(out / "adapter.safetensors")]
    assert list(result["scores"]) == ["full", "8"]
    assert 0 < result["share_of_peak"] < 1 and result["tokens_per_second"] > 0 and result["peak_memory_bytes"] > 0
    assert "left" in done.err and "validation loss full" in done.err

    lines = log_lines(out)
    losses = [line["loss"] for line in lines if "loss" in line]
    scores = [line["eval"] for line in lines if "eval" in line]
    assert len(losses) == 25 and losses[-1] < losses[0] - 0.5
    assert all(scores[-1][chunks] < scores[0][chunks] - 0.5 for chunks in ("full", "8"))

    info = gsa("info", "--model", model, "--adapter", out / "adapter.safetensors", "--json").json()["adapter"]
    assert info["lora_rank"] == 4 and info["chunk_sizes"] == ["4", "8", "4-4"]
    answer = gsa("ask", "--model", model, "--adapter", out / "adapter.safetensors", "--policy", "gsa@8", "--doc", document,
                 "--question", "Who?", "--max-tokens", 4)  # fmt: skip
    assert answer.code == 0, answer.err

    plot = gsa("train", "plot", out / "log.jsonl", out / "log.jsonl", "--out", tmp_path / "curves.svg")
    assert plot.code == 0, plot.err
    root = xml.etree.ElementTree.parse(tmp_path / "curves.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"


def test_metadata_of_the_adapter(train, shard, tmp_path):
    from safetensors import safe_open

    train(tmp_path / "run", "--validation", shard, "--eval-windows", 2, "--eval-chunks", "full", steps=2)
    with safe_open(tmp_path / "run" / "adapter.safetensors", "pt") as file:
        metadata = file.metadata()
        dtypes = {str(file.get_tensor(name).dtype) for name in file.keys()}
    with safe_open(shard, "pt") as file:
        digest = file.metadata()["digest"]
    assert dtypes == {"torch.bfloat16"}
    assert metadata["data_digest"] == digest
    assert metadata["recipe"].startswith("cpt steps=2 rows=2 ")
    assert set(json.loads(metadata["scores"])) == {"train_loss", "loss"}


def test_stages_go_on_from_each_other(gsa, model, train, questions, shard, tmp_path):
    train(tmp_path / "cpt", steps=2)
    out = tmp_path / "ft"
    done = gsa("train", "ft", "--model", model, "--data", questions, "--text", shard, "--init", tmp_path / "cpt" / "adapter.safetensors",
               "--out", out, "--steps", 4, "--rows", 2, "--row-len", 256, "--chunks", "8,16", "--validation", questions,
               "--eval-windows", 2, "--eval-chunks", "full,8", "--threads", 1, "--quiet", "--json")  # fmt: skip
    result = json.loads(done.out.splitlines()[-1])
    assert list(result["scores"]) == ["full", "8"]
    info = gsa("info", "--model", model, "--adapter", out / "adapter.safetensors", "--json").json()["adapter"]
    assert info["lora_rank"] == 4  # of the first stage
    assert info["chunk_sizes"] == ["4", "8", "4-4", "16"]
    assert "cpt steps=2" in info["recipe"] and "; ft steps=4" in info["recipe"]


def test_rows_of_text(gsa, model, questions, shard, tmp_path):
    def ft(out, *options):
        return gsa("train", "ft", "--model", model, "--data", questions, "--out", tmp_path / out, "--steps", 2, "--rows", 2,
                   "--row-len", 256, "--chunks", "8", "--threads", 1, "--quiet", "--json", *options)  # fmt: skip

    def result(*options):
        done = ft("-".join(map(str, options)).replace("--", "").replace("/", "_"), "--text", shard, *options)
        assert done.code == 0, done.err
        return json.loads(done.out.splitlines()[-1])

    def recipe(*options):
        return result(*options)["recipe"]

    assert "text_rows" not in recipe() and "made_tasks" not in recipe("--made-tasks", "numbers", "--text-rows", 0.15)
    assert " text_rows=1 made_tasks=all " in recipe("--text-rows", 1, "--made-tasks", "all")
    assert " text_rows=0.5 plain_text=1 " in recipe("--text-rows", 0.5, "--plain-text", 1)
    teacher = tmp_path / "text-rows-1-made-tasks-all" / "adapter.safetensors"
    losses = []
    plain, taught = result("--distill", 0.5), result("--distill", 0.5, "--teacher", teacher)
    digest = hashlib.sha256(teacher.read_bytes()).hexdigest()
    assert f" teacher={digest} " in taught["recipe"] and "teacher" not in plain["recipe"]
    assert taught["loss"] != plain["loss"]
    for who in ("none", teacher):  # of text alone, too, in cpt
        options = [] if who == "none" else ["--teacher", who]
        done = gsa("train", "cpt", "--model", model, "--data", shard, "--out", tmp_path / f"cpt-{options != []}", "--steps", 2,
                   "--rows", 2, "--row-len", 128, "--chunks", "8", "--threads", 1, "--distill", 1, "--quiet", "--json", *options)  # fmt: skip
        losses.append(json.loads(done.out.splitlines()[-1])["loss"])
    assert losses[0] != losses[1]
    text = ["--text-rows", 1, "--plain-text", 1]
    kept, halved = result(*text), result(*text, "--plain-distill", 0.5)
    assert "plain_distill" not in kept["recipe"] and " plain_text=1 plain_distill=0.5 " in halved["recipe"]
    assert kept["loss"] < halved["loss"]  # far from the next token, but near to the base
    with_teacher = result(*text, "--distill", 0.5, "--teacher", teacher)
    assert with_teacher["loss"] == kept["loss"]  # the teacher has no say in plain text
    for options, named in [(["--text-rows", "0.5"], "--text"), (["--made-tasks", "all"], "--text"), (["--plain-text", "0.5"], "--text"),
                           (["--text", shard, "--teacher", teacher], "--distill"), (["--distill", "1", "--teacher", "none.safetensors"], "none.safetensors"),
                           (["--text", shard, "--text-rows", "0", "--plain-text", "1"], "--text-rows"),
                           (["--text", shard, "--plain-distill", "0.5"], "--plain-text"),
                           (["--distill", "nan"], "--distill: 'nan': give a number, 0 to 1"), (["--lr", "inf"], "--lr"),
                           (["--text-rows", "1.5"], "1.5"), (["--made-tasks", "some"], "some")]:  # fmt: skip
        done = ft("refused", *options)
        assert done.code == USAGE and named in done.error_line()
        assert not (tmp_path / "refused").exists()


def test_routing(gsa, model, questions, tmp_path):
    """Beside the answers' loss in the log, the progress and the recipe, if it is asked for; it falls."""

    def run(name, *options):
        out = tmp_path / name
        done = gsa("train", "ft", "--model", model, "--data", questions, "--out", out, "--steps", 12, "--rows", 2, "--row-len", 128,
                   "--chunks", "8,4-4", "--lr", 0.01, "--threads", 1, "--dtype", "f32", "--json", *options)  # fmt: skip
        assert done.code == 0, done.err
        return [line for line in log_lines(out) if "loss" in line], json.loads(done.out.splitlines()[-1])["recipe"], done.err

    lines, recipe, err = run("with", "--routing", 4)
    assert " routing=4 " in recipe and ", routing " in err
    values = [line["routing"] for line in lines]
    assert len(values) == 12 and sum(values[-4:]) < sum(values[:4])

    for options, named in [(["--checkpoint-activations"], "--checkpoint-activations"), (["--policy-keys", "route=mean"], "route=both")]:
        done = gsa("train", "ft", "--model", model, "--data", questions, "--out", tmp_path / "no", "--routing", 1, *options)
        assert done.code == USAGE and named in done.error_line()

    plain, recipe, err = run("without")
    assert "routing" not in recipe and "routing" not in err and all("routing" not in line for line in plain)
    assert plain[0]["loss"] == lines[0]["loss"]  # of the answers alone


def test_layers(gsa, model, questions, train, tmp_path):
    """Gains of every layer but the first, and the best budget as a key that a policy takes."""
    from safetensors.torch import load_file

    train(tmp_path / "run")
    options = ["--model", model, "--adapter", tmp_path / "run/adapter.safetensors", "--data", questions, "--row-len", 128,
               "--chunks", "8,4-4", "--threads", 1, "--dtype", "f32"]  # fmt: skip
    done = gsa("train", "layers", *options, "--rows", 3, "--policy-keys", "route=both", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    num_layers = len(found["gains"])
    assert found["gains"][0] == 0 and num_layers > 1
    assert found["layers"] is None or found["layers"].startswith("layers=1/")
    for candidate in found["candidates"]:
        shares = []
        for part in candidate["layers"].removeprefix("layers=").split("/"):
            share, _, count = part.partition("*")
            shares += [float(share)] * int(count or 1)
        assert len(shares) == num_layers and abs(sum(shares) - num_layers) < 0.01 * num_layers

    done = gsa("train", "layers", *options, "--rows", 1)
    assert done.code == 0 and "gain" in done.out and "layers favoured" in done.out

    budget = tmp_path / "budget.safetensors"
    done = gsa("train", "layers", *options, "--rows", 3, "--policy-keys", "route=both:tokens=24", "--json", "--out", budget, "--adapter-dtype", "f32")
    keys = gsa("info", "--model", model, "--adapter", budget, "--json").json()["adapter"]["policy_keys"]
    assert keys == ":".join(filter(None, ["route=both", json.loads(done.out)["layers"]]))
    before, after = load_file(tmp_path / "run/adapter.safetensors"), load_file(budget)
    assert before.keys() == after.keys() and all(before[name].float().equal(after[name]) for name in before)
    lost = gsa("train", "layers", *options, "--rows", 1, "--out", tmp_path / "no" / "x.safetensors")
    assert lost.code == 1 and "there is no folder" in lost.error_line()

    assert found["policies"] == ["gsa@8:route=both", "gsa@4-4:route=both"]
    assert "--adapter" in gsa("train", "layers", "--model", model, "--data", questions).err
    assert "--dtype" in gsa("train", "layers", *options, "--dtype", "file").err
    for keys, named in [("layers=1/2", "leave layers= out"), ("top_p=0.5", "top_p has none"), ("route=best", "route=best")]:
        done = gsa("train", "layers", *options, "--policy-keys", keys)
        assert done.code == USAGE and named in done.err and done.err.count("\n") == 1


def test_gists_that_start_from_their_content(gsa, model, arguments, train, refuse, questions, tmp_path, document):
    """What training chose stays with the adapter, through stages, answers and merging."""
    from safetensors import safe_open

    plain = train(tmp_path / "row", steps=2)
    assert train(tmp_path / "same", "--gist-input", "row", steps=2) == plain and b"gist_input" not in plain
    train(tmp_path / "cpt", "--gist-input", "content", steps=2)
    adapter = tmp_path / "cpt" / "adapter.safetensors"
    with safe_open(adapter, "pt") as file:
        assert file.metadata()["gist_input"] == "content" and " gist_input=content " in file.metadata()["recipe"]

    def described(adapter, base=model):
        info = gsa("info", "--model", base, "--adapter", adapter, "--json").json()["adapter"]
        return info["gist_input"]

    def answer(adapter, base=model):
        done = gsa("ask", "--model", base, "--adapter", adapter, "--policy", "gsa@4", "--doc", document, "--question", "Who?",
                   "--max-tokens", 8, "--dtype", "f32", "--quiet")  # fmt: skip
        assert done.code == 0, done.err
        return done.out

    assert described(adapter) == "content" and described(tmp_path / "row" / "adapter.safetensors") == "row"
    assert "plus the mean of their tokens" in gsa("info", "--model", model, "--adapter", adapter).out

    done = gsa("train", "ft", "--model", model, "--data", questions, "--init", adapter, "--out", tmp_path / "ft", "--steps", 2,
               "--rows", 2, "--row-len", 256, "--chunks", "8,4-4", "--threads", 1, "--quiet")  # fmt: skip
    assert done.code == 0, done.err
    assert described(tmp_path / "ft" / "adapter.safetensors") == "content"
    answer(tmp_path / "ft" / "adapter.safetensors")
    assert "start from content" in refuse(tmp_path / "next", "--init", adapter, "--gist-input", "row")
    assert "start from row" in refuse(tmp_path / "next", "--init", tmp_path / "row" / "adapter.safetensors", "--gist-input", "content")

    merged = gsa("train", "merge", "--model", model, "--adapter", adapter, "--out", tmp_path / "merged.gguf", "--dtype", "f32")
    merged_model, gists = merged.out.splitlines()
    assert described(gists, merged_model) == "content" and answer(gists, merged_model) == answer(adapter)

    done = gsa(*arguments(tmp_path / "full", "--train", "full", "--gist-input", "content", "--quiet", "--json", steps=2))
    assert done.code == 0, done.err
    full_model, gists = json.loads(done.out.splitlines()[-1])["files"]
    assert described(gists, full_model) == "content"
    answer(gists, full_model)


def test_policy_keys_become_defaults(gsa, model, shard, train, tmp_path, document):
    """Whoever asks under gsa@8 gets what its adapter was trained for, and results say so."""
    train(tmp_path / "run", "--policy-keys", "tokens=16:layers=1/0.5:route=both", steps=2)
    adapter = tmp_path / "run" / "adapter.safetensors"
    options = ["--model", model, "--adapter", adapter]
    assert gsa("info", *options, "--json").json()["adapter"]["policy_keys"] == "route=both:layers=1/0.5"
    assert "route=both:layers=1/0.5" in gsa("info", *options).out

    resolved = "gsa@8:route=both:layers=1/0.5"
    ask = ["ask", *options, "--doc", document, "--question", "Who?", "--max-tokens", 4]
    policies = "gsa@8,gsa@8:layers=1:route=gist,gsa@8:tokens=16,full,gsa@8:route=gist:adapter=none"
    ran = [row["policy"] for row in gsa(*ask, "--compare", policies, "--json").json()["results"]]
    assert ran == [resolved, "gsa@8:route=gist:layers=1", "gsa@8:tokens=16:route=both:layers=1/0.5", "full", "gsa@8:adapter=none"]
    assert gsa(*ask, "--policy", "gsa@8", "--json").json()["results"][0]["policy"] == resolved
    assert resolved in gsa(*ask, "--policy", "gsa@8").err
    question = ["--doc", document, "--question", "Who?"]
    assert gsa("inspect", *options, *question, "--policy", "gsa@8", "--json").json()["policy"] == resolved
    bench = gsa("bench", "decode", *options, "--context", 64, "--reps", 1, "--tokens", 2, "--policies", "gsa@8", "--json").json()
    assert bench["results"][0]["policy"] == resolved

    train(tmp_path / "next", "--init", adapter, steps=2)
    train(tmp_path / "other", "--init", adapter, "--policy-keys", "unfold=next", steps=2)
    for run, keys in [("next", "route=both:layers=1/0.5"), ("other", "unfold=next")]:
        info = gsa("info", "--model", model, "--adapter", tmp_path / run / "adapter.safetensors", "--json").json()
        assert info["adapter"]["policy_keys"] == keys
        assert info["adapter"]["recipe"].split("; ")[1].count(f" policy_keys={keys} ") == 1  # its rows had them
    merged = tmp_path / "merged.gguf"
    gists = gsa("train", "merge", *options, "--out", merged).out.splitlines()[1]
    assert gsa("info", "--model", merged, "--adapter", gists, "--json").json()["adapter"]["policy_keys"] == "route=both:layers=1/0.5"


def test_evaluations_name_what_ran(gsa, model, make_trained, tmp_path):
    adapter = make_trained("route=both")
    task, records = tmp_path / "foxes.jsonl", tmp_path / "records.jsonl"
    task.write_text("".join(json.dumps({"_id": str(i), "input": "Who?", "context": FOX * 14, "answers": ["fox"]}) + "\n" for i in range(4)))
    command = ["eval", "--model", model, "--adapter", adapter, "--tasks", task, "--records", records, "--max-tokens", 2, "--json",
               "--policies", "gsa@8,gsa@8:route=gist,streaming", "--match", "gsa@8", "--calibration-items", 1]  # fmt: skip
    result = gsa(*command, "--baseline", "streaming:match=gsa@8").json()
    names = {"gsa@8:route=both", "gsa@8:route=gist:match=gsa@8:route=both", "streaming:match=gsa@8:route=both"}
    assert {row["policy"] for row in result["results"]} == names
    assert {json.loads(line)["policy"] for line in records.read_text().splitlines()[1:]} == names
    assert {row["baseline"] for row in result["comparisons"]} == {"streaming:match=gsa@8:route=both"}
    again = gsa(*command, "--baseline", "gsa@8").json()
    assert again["results"] == result["results"]
    assert {row["baseline"] for row in again["comparisons"]} == {"gsa@8:route=both"}


@pytest.fixture
def make_trained(train, tmp_path):
    def make(keys):
        train(tmp_path / "trained", "--policy-keys", keys, steps=2)
        return tmp_path / "trained" / "adapter.safetensors"

    return make


def test_damaged_policy_keys_name_the_file(gsa, model, make_trained, document):
    adapter = make_trained("route=both")
    whole = adapter.read_bytes()
    assert whole.count(b'"route=both"') == 1
    adapter.write_bytes(whole.replace(b'"route=both"', b'"route=best"'))
    done = gsa("ask", "--model", model, "--adapter", adapter, "--doc", document, "--question", "Who?")
    assert done.code == USAGE and str(adapter) in done.error_line() and "policy_keys" in done.error_line()


def test_chunks_with_keys_of_their_own(gsa, model, shard, arguments, tmp_path):
    """Rows of both ways of reading in one run."""
    out = tmp_path / "run"
    done = gsa(*arguments(out, "--chunks", "8,8:read=full,4", "--policy-keys", "route=both", "--validation", shard, "--eval-windows", 2,
                          "--eval-chunks", "full,8,8:read=full", "--json", steps=3))  # fmt: skip
    result = json.loads(done.out.splitlines()[-1])
    assert list(result["scores"]) == ["full", "8", "8:read=full"]
    assert result["scores"]["8"] != result["scores"]["8:read=full"]
    assert "chunks=8,8:read=full,4 " in result["recipe"] and "policy_keys=route=both" in result["recipe"]
    info = gsa("info", "--model", model, "--adapter", out / "adapter.safetensors", "--json").json()["adapter"]
    assert info["chunk_sizes"] == ["8", "4"] and info["policy_keys"] == "route=both"


def test_all_weights(gsa, model, shard, tmp_path, document):
    out = tmp_path / "run"
    done = gsa("train", "cpt", "--model", model, "--data", shard, "--out", out, "--steps", 3, "--rows", 2, "--row-len", ROW_LEN,
               "--chunks", "full,4", "--train", "full", "--lr", 0.02, "--threads", 1, "--quiet", "--json")  # fmt: skip
    files = json.loads(done.out.splitlines()[-1])["files"]
    assert [os.path.basename(file) for file in files] == ["model.gguf", "model.gguf.gists.safetensors"]
    answer = gsa("ask", "--model", files[0], "--adapter", files[1], "--doc", document, "--question", "Who?", "--max-tokens", 4)
    assert answer.code == 0, answer.err
    refused = gsa("ask", "--model", model, "--adapter", files[1], "--doc", document, "--question", "Who?")
    assert refused.code == USAGE and "belongs to" in refused.error_line()  # its norms have moved


@pytest.mark.parametrize("name", ["llama-f32/model.gguf", "llama"])
def test_merged_model_answers_like_base_and_adapter(gsa, models, train, shard, tmp_path, document, name):
    base = models / name
    train(tmp_path / "run", "--model", base, "--lr", 0.05, steps=4)
    merged = tmp_path / ("merged.gguf" if name.endswith(".gguf") else "merged")
    adapter = tmp_path / "run" / "adapter.safetensors"
    done = gsa("train", "merge", "--model", base, "--adapter", adapter, "--out", merged, "--dtype", "f32")
    assert done.code == 0, done.err
    gists = done.out.splitlines()[1]
    question = ["--doc", document, "--question", "Who?", "--max-tokens", 12, "--dtype", "f32", "--policy", "gsa@4", "--quiet"]
    expected = gsa("ask", "--model", base, "--adapter", adapter, *question)
    assert gsa("ask", "--model", merged, "--adapter", gists, *question).out == expected.out
    for other_model, other_adapter in [(merged, adapter), (base, gists)]:  # LoRA would count twice, or never
        refused = gsa("ask", "--model", other_model, "--adapter", other_adapter, *question)
        assert refused.code == USAGE and "was trained on the base" in refused.error_line()


def test_average_of_adapters(gsa, model, train, tmp_path):
    """Its file is taken like another; what it is made of is in its recipe."""
    one, two = tmp_path / "one", tmp_path / "two"
    train(one, "--lr", 0.01, "--chunks", "8", steps=2)
    train(two, "--lr", 0.01, "--chunks", "4", "--seed", 1, steps=2)
    parts = [one / "adapter.safetensors", two / "adapter.safetensors"]
    out = tmp_path / "both.safetensors"
    done = gsa("train", "average", *parts, parts[0], "--out", out, "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["file"] == str(out) and 0 < result["lost"] < 0.5
    info = gsa("info", "--model", model, "--adapter", out, "--json").json()["adapter"]
    assert info["chunk_sizes"] == ["8", "4"] and info["lora_rank"] == result["rank"]
    assert info["recipe"].count("cpt steps=2") == 3
    train(tmp_path / "keys", "--policy-keys", "route=both", steps=1)
    keyed = tmp_path / "keys" / "adapter.safetensors"
    assert "route=both" in gsa("train", "average", keyed, parts[0], "--out", out).err
    assert gsa("info", "--model", model, "--adapter", out, "--json").json()["adapter"]["policy_keys"] == "route=both"
    assert "none" in gsa("train", "average", parts[0], keyed, "--out", out).err
    for arguments, named in [([parts[0], "--out", out], "adapters"), ([*parts, "--rank", 999, "--out", out], "999"),
                             ([*parts, "--out", parts[1]], "is read and written"),
                             ([parts[0], tmp_path / "gone.safetensors", "--out", out], "gone")]:  # fmt: skip
        refused = gsa("train", "average", *arguments)
        assert refused.code == USAGE and named in refused.error_line()
    refused = gsa("info", "--model", model, "--adapter", parts[0], "--adapter", parts[1])
    assert refused.code == USAGE and "another one is called adapter" in refused.error_line()
    refused = gsa("train", "average", *parts, "--out", tmp_path / "none" / "x.safetensors")
    assert refused.code == FAILURE and "none" in refused.error_line()


def test_resume_is_bit_for_bit(train, arguments, tmp_path):
    undisturbed = train(tmp_path / "whole", steps=60)
    out = tmp_path / "parts"
    started = start(arguments(out, "--quiet", steps=60))
    wait_for_step(out, 3)
    started.send_signal(signal.SIGTERM)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 143, err
    assert b"--resume" in err
    assert list((out / "checkpoints").iterdir())
    assert train(out, "--resume", steps=60) == undisturbed


def test_ctrl_c_saves(arguments, tmp_path):
    out = tmp_path / "run"
    started = start(arguments(out, "--quiet", steps=2000))
    wait_for_step(out, 2)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)
    assert started.returncode == 130, err
    assert b"stopped behind step" in err and list((out / "checkpoints").iterdir())


def test_killed_ten_times(train, arguments, tmp_path):
    steps = 400  # more than a fast machine takes in the time of ten kills
    undisturbed = train(tmp_path / "whole", steps=steps)
    out = tmp_path / "killed"
    draw = random.Random(5)
    # A checkpoint after every step, so that a kill often hits one being written.
    command = arguments(out, "--quiet", "--save-minutes", 0, "--resume", steps=steps)
    num_killed = 0
    reached = 0
    while num_killed < 10:
        started = start(command)
        wait_for_step(out, min(reached + 1, steps))
        time.sleep(draw.uniform(0, 0.05))
        started.kill()
        started.communicate(timeout=60)
        num_killed += 1
        reached = max((line["step"] for line in log_lines(out)), default=0)
    assert not (out / "adapter.safetensors").exists(), "the kills came too late"
    assert train(out, "--resume", "--save-minutes", 0, steps=steps) == undisturbed
    assert all(path.suffix == ".safetensors" for path in (out / "checkpoints").iterdir()), "half-written files are left"


def test_damaged_checkpoint(gsa, train, arguments, tmp_path):
    undisturbed = train(tmp_path / "whole")
    out = tmp_path / "run"
    assert train(out, "--save-minutes", 0) == undisturbed
    newest = sorted((out / "checkpoints").iterdir())[-1]
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(damaged)
    (out / "adapter.safetensors").unlink()
    done = gsa(*arguments(out, "--quiet", "--resume"))
    assert done.code == 0 and newest.name in done.err and "damaged" in done.err
    assert (out / "adapter.safetensors").read_bytes() == undisturbed


def test_resume_without_checkpoint_starts_anew(gsa, arguments, tmp_path):
    done = gsa(*arguments(tmp_path / "run", "--quiet", "--resume", steps=1))
    assert done.code == 0 and "starts anew" in done.err


def test_folder_of_another_run(refuse, train, tmp_path):
    train(tmp_path / "run", steps=1)
    assert "--resume" in refuse(tmp_path / "run")
    assert "'lr=0.004', this run has 'lr=0.5'" in refuse(tmp_path / "run", "--steps", 1, "--resume", "--lr", 0.5)


def test_full_disk(gsa, arguments, train, tmp_path):
    """Checkpoints do not fit, the run goes on; at its end the old one is there, and the adapter whole."""
    undisturbed = train(tmp_path / "whole")
    out = tmp_path / "run"
    small = 60_000  # bytes: more than the adapter, less than a checkpoint
    assert len(undisturbed) < small

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (small, small))

    done = gsa(*arguments(out, "--quiet", "--save-minutes", 0), preexec_fn=limit)
    assert done.code == 0, done.err
    assert "no checkpoint at step 1" in done.err
    assert not list((out / "checkpoints").iterdir())
    assert (out / "adapter.safetensors").read_bytes() == undisturbed


def test_spike_names_step_and_rows(refuse, tmp_path):
    line = refuse(tmp_path / "run", "--lr", 100, "--gist-lr", 100, "--max-spike", 0.1, code=FAILURE)
    assert "step " in line and "rows " in line


def test_shard_of_another_tokenizer(gsa, refuse, models, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for file in (models / "llama").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    line = refuse(tmp_path / "run", "--model", other)
    assert "text.gsa" in line and "tokenizer" in line


def test_adapter_of_other_shapes(gsa, refuse, train, models, tmp_path):
    train(tmp_path / "run", steps=1)
    adapter = tmp_path / "run" / "adapter.safetensors"
    assert "rank 4" in refuse(tmp_path / "next", "--init", adapter, "--rank", 8)
    assert "gist rows" in refuse(tmp_path / "next", "--init", adapter, "--gist-rows", 1)
    assert "alpha 4" in refuse(tmp_path / "next", "--init", adapter, "--alpha", 8)
    other = refuse(tmp_path / "next", "--init", adapter, "--model", models / "llama-gqa")
    assert "base" in other or "belong" in other


@pytest.mark.parametrize(
    "options, named",
    [
        (["--chunks", "8,,4"], "''"),
        (["--chunks", "8,x"], "x"),
        (["--policy-keys", "mood=good"], "mood"),
        (["--chunks", "8,4:mood=good"], "mood"),
        (["--chunks", "8,4:"], "'4:'"),
        (["--targets", "q,head"], "head"),
        (["--rows", "3", "--micro-batches", "2"], "--rows"),
        (["--train", "some"], "some"),
        (["--gist-input", "mean"], "mean"),
        (["--steps", "0"], "0"),
        (["--data", "nowhere.gsa"], "nowhere.gsa"),
        (["--init", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--validation", "nowhere.gsa"], "nowhere.gsa"),
        (["--device", "tpu"], "tpu"),
        (["--routing", "1"], "--routing"),
    ],
)
def test_bad_options(refuse, tmp_path, options, named):
    assert named in refuse(tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_out_is_a_file(refuse, tmp_path):
    (tmp_path / "run").write_text("text")
    assert "no folder" in refuse(tmp_path / "run")


def test_plot_of_no_log(gsa, document, tmp_path):
    done = gsa("train", "plot", document, "--out", tmp_path / "curves.svg")
    assert done.code == USAGE and "no loss" in done.error_line()
    assert not (tmp_path / "curves.svg").exists()
