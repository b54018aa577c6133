"""The model that the project's environment holds, by its name."""

import pytest


@pytest.fixture(scope="module")
def answers(gsa, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundled") / "animals.md"
    path.write_text("# Pets\n\nThe name of the elephant is Fido. The name of the rabbit is Frederick.\n" * 3)
    command = ("ask", "--model", "smollm2", "--doc", path, "--question", "What is the name of the elephant?")
    policies = "full:adapter=none,meanpool:tokens=4096:adapter=none,gsa@8"
    result = gsa(*command, "--adapter", "smollm2-gsa", "--compare", policies, "--max-tokens", "16", "--json", timeout=280)
    if "is not installed" in result.err or "not found at" in result.err:
        pytest.skip("the model smollm2 is not installed")
    return {row["policy"].split("@")[0].split(":")[0]: row["answer"] for row in result.json()["results"]}


def test_full_attention_finds_the_answer(answers):
    assert "Fido" in answers["full"]


def test_meanpool_that_unfolds_everything_answers_alike(answers):
    assert answers["meanpool"] == answers["full"]


def test_adapter_that_comes_with_gsa_finds_the_answer(answers):
    assert "Fido" in answers["gsa"]
