"""README.md says what the program and the example are."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def table_below(heading):
    """Rows of the first table whose first column has this heading, cells as text."""
    lines = README.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def code_words(cell):
    return re.findall(r"`([^`]+)`", cell)


def listed(help_text, title):
    """First words of the indented lines below a title."""
    below = help_text.split(title, 1)[1].splitlines()[1:]
    names = []
    for line in below:
        if not line.startswith("  "):
            return names
        names.append(line.split()[0])
    return names


POLICIES = {code_words(row[0])[0]: row for row in table_below("name")}


def test_example_is_the_file():
    blocks = re.findall(r"```cpp\n(.*?)```", README, re.DOTALL)
    assert (ROOT / "examples" / "ask.cpp").read_text() in blocks


def test_policies_are_those_of_the_program(gsa):
    assert list(POLICIES) == listed(gsa("ask", "--help").out, "Policies are written")


def test_keys_are_those_of_the_program(gsa):
    keys = [code_words(row[0])[0] for row in table_below("key")]
    assert keys == listed(gsa("ask", "--help").out, "Keys:")


def refused_policy(gsa, policy):
    result = gsa("ask", "--model", "m", "--doc", "d", "--question", "q", "--policy", policy)
    assert result.code == 2
    return result.error_line()


@pytest.mark.parametrize("name", POLICIES)
def test_keys_of_a_policy(gsa, name):
    known = refused_policy(gsa, f"{name}:no_such_key=1").split("use ")[-1].split(", ")
    assert code_words(POLICIES[name][3]) == known


@pytest.mark.parametrize("name", POLICIES)
def test_levels_of_a_policy(gsa, name):
    levels = {"none": "no chunks", "one": "one level", "any": "document"}  # any: parsed, so the document is next
    assert levels[POLICIES[name][2]] in refused_policy(gsa, f"{name}@4-4")


def test_commands_are_those_of_the_program(gsa):
    out = gsa("--help").out
    commands = {code_words(row[0])[0].split()[1] for row in table_below("command") if code_words(row[0])}
    commands |= {"ask"}
    assert commands == set(re.findall(r"^  ([a-z]+) ", out.split("Subcommands:")[1].split("Examples:")[0], re.MULTILINE))


def test_options_exist(gsa):
    commands = ["ask", "chat", "inspect", "info", "bench", "eval", "train cpt", "train ft", "train prepare cpt", "train plot"]
    helps = "".join(gsa(*command.split(), "--help").out for command in commands)
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    used = {option for line in lines if re.search(r"(^|/)gsa ", line) for option in re.findall(r"(--[a-z-]+)", line)}
    assert used and all(option in helps for option in used)
