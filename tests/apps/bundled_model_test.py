"""The model that the project's environment holds, by its name."""

import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
DATA = ROOT / "tests" / "data" / "eval"


@pytest.fixture(scope="module")
def bundled(gsa):
    """Runs a command on the bundled model with the adapter that comes with gsa."""

    def run(command, *args):
        result = gsa(command, "--model", "smollm2", "--adapter", "smollm2-gsa", *args, timeout=280)
        if "is not installed" in result.err or "not found at" in result.err:
            pytest.skip("the model smollm2 is not installed")
        return result

    return run


@pytest.fixture(scope="module")
def answers(bundled, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundled") / "animals.md"
    path.write_text("# Pets\n\nThe name of the elephant is Fido. The name of the rabbit is Frederick.\n" * 3)
    policies = "full:adapter=none,meanpool:tokens=4096:adapter=none,gsa@8"
    result = bundled("ask", "--doc", path, "--question", "What is the name of the elephant?",
                     "--compare", policies, "--max-tokens", "16", "--json")  # fmt: skip
    return {row["policy"].split("@")[0].split(":")[0]: row["answer"] for row in result.json()["results"]}


def test_full_attention_finds_the_answer(answers):
    assert "Fido" in answers["full"]


def test_meanpool_that_unfolds_everything_answers_alike(answers):
    assert answers["meanpool"] == answers["full"]


def test_adapter_that_comes_with_gsa_finds_the_answer(answers):
    assert "Fido" in answers["gsa"]


def test_evaluation_from_start_to_report(bundled, tmp_path):
    generated = {
        "passkey": "passkey:lengths=512:depths=0,50,100",
        "needle": f"needle:haystack={ROOT / 'demo' / 'document.txt'}:lengths=512:depths=0,50,100",
        "lines": "lines:lengths=512:depths=0,50,100",
        "kv": "kv:lengths=512:depths=0,50,100",
    }
    tasks = [f"hotpotqa={DATA / 'longbench_like.jsonl'}", f"nq={DATA / 'rag_like.jsonl'}", *generated.values()]
    names = ["longbench_like", "rag_like", *generated]
    policies = ["full", "gsa@8", "meanpool@8", "snapkv:tokens=64"]
    reports = [tmp_path / f"report.{ending}" for ending in ("html", "md")]
    writes = [part for path in reports for part in ("--report", path)]
    done = bundled("eval", "--tasks", ",".join(tasks), "--policies", ",".join(policies), "--limit", 3,
                   "--max-tokens", 12, *writes, "--json")  # fmt: skip
    result = done.json()
    rows = {(row["task"], row["policy"]): row for row in result["results"]}
    keys = bundled("info", "--json").json()["adapter"]["policy_keys"]
    gists = f"gsa@8:{keys}"  # results name what ran
    ran = [gists if policy == "gsa@8" else policy for policy in policies]
    assert list(rows) == [(task, policy) for task in names for policy in ran]
    for row in rows.values():
        assert row["n"] == 3 and row["truncated"] == 0 and 0 <= row["score"] <= 100
        assert 0 < row["fraction_read"] <= 1 and 0 < row["answer_tokens"] <= 12
        assert (row["policy"] == "full") == (row["fraction_read"] > 0.99)
    assert result["failures"] == []
    for policy in ("full", gists):
        assert rows["passkey", policy]["score"] >= 60, "at most one of three pass keys is missed"
    for report in reports:
        text = report.read_text()
        assert all(name in text for name in names + policies)
