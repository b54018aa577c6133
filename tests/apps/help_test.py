"""Help texts and version."""

import re

import pytest


@pytest.mark.parametrize("command", ["ask", "chat", "inspect", "info", "bench"])
def test_help_has_examples(gsa, command):
    result = gsa(command, "--help")
    assert result.code == 0 and result.err == ""
    assert f"gsa {command} " in result.out.split("Examples:")[1]


def test_program_help_names_all_commands(gsa):
    out = gsa("--help").out
    for command in ("ask", "chat", "inspect", "info", "bench"):
        assert re.search(rf"^  {command} ", out, re.MULTILINE)


def test_ask_help_names_policies_and_options(gsa):
    out = gsa("ask", "--help").out
    for policy in ("full", "gsa", "gist-only", "meanpool", "random", "streaming"):
        assert re.search(rf"^  {policy} ", out, re.MULTILINE)
    for option in ("--compare", "--adapter", "--max-tokens", "--temperature", "--top-k", "--top-p", "--min-p",
                   "--repetition-penalty", "--seed", "--stop", "--threads", "--device", "--dtype", "--system",
                   "--chat-template", "--thinking", "--segment", "--no-online-gisting", "--json", "--quiet"):
        assert option in out


def test_version(gsa):
    assert re.fullmatch(r"gsa \d+\.\d+\.\d+\n", gsa("--version").out)
