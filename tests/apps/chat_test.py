"""gsa chat with piped input."""

import pytest


@pytest.fixture
def chat(gsa, model):
    def run(text, *args):
        return gsa("chat", "--model", model, "--max-tokens", "6", "--policy", "full", *args, stdin=text.encode())

    return run


def test_answers_every_message(chat):
    result = chat("Hello\n\nAnd again?\n")
    assert result.code == 0
    assert result.err.count("tokens so far") == 2


def test_second_answer_knows_the_first_turn(chat):
    def second(first):
        return chat(f"{first}\nAnd?\n", "--quiet").out.splitlines()[-1]

    assert second("The cat") != second("Jumps over the lazy dog the quick brown fox")


def test_clear_forgets(chat):
    fresh = chat("And?\n", "--quiet").out
    cleared = chat("Hello\n/clear\nAnd?\n", "--quiet").out
    assert cleared == chat("Hello\n", "--quiet").out + fresh


def test_backslash_joins_lines(chat):
    assert chat("One \\\ntwo\n").err.count("tokens so far") == 1


def test_exit_and_help(chat):
    result = chat("/help\n/exit\nnever answered\n")
    assert result.code == 0 and result.out == ""
    assert "/clear" in result.err


def test_unknown_command_is_named(chat):
    assert "/nonsense" in chat("/nonsense\n").err


def test_documents_are_read(gsa, model, document):
    args = ("chat", "--model", model, "--max-tokens", "6", "--policy", "full", "--quiet")
    with_document = gsa(*args, "--doc", document, stdin=b"Who?\n")
    without = gsa(*args, stdin=b"Who?\n")
    assert with_document.code == without.code == 0
    assert with_document.out != without.out


def test_message_that_is_too_long_is_refused_and_the_next_one_answered(chat):
    result = chat("fox " * 400 + "\nWho?\n")
    assert result.code == 2
    assert "256" in result.err and result.err.count("tokens so far") == 1
