"""gsa ask: answers, tables, JSON."""

import os
import pty
import signal
import subprocess
import time

import pytest

from conftest import FOX, PROGRAM

ROW_KEYS = {
    "policy",
    "question",
    "answer",
    "context_tokens",
    "answer_tokens",
    "finish_reason",
    "nominal_ratio",
    "fraction_read",
    "prefill_fraction",
    "prefill_seconds",
    "decode_ms_per_token",
    "kv_bytes_per_token",
    "peak_memory_bytes",
}
SHORT = ("--max-tokens", "8")


def ask(gsa, model, document, *args, **kwargs):
    return gsa("ask", "--model", model, "--doc", document, *SHORT, *args, **kwargs)


def test_json_is_one_object_with_all_fields(gsa, model, document):
    questions = ("--question", "Who jumps?", "--question", "Over whom?")
    result = ask(gsa, model, document, *questions, "--compare", "full,gsa@16,streaming", "--json").json()
    assert set(result) == {"model", "adapter", "results"}
    assert result["model"] == str(model) and result["adapter"] is None
    rows = result["results"]
    assert [(row["policy"].split(":")[0], row["question"]) for row in rows] == [
        (policy, question)
        for policy in ("full", "gsa@16", "streaming")
        for question in ("Who jumps?", "Over whom?")
    ]
    assert [row["nominal_ratio"] for row in rows] == [1, 1, 16, 16, 0, 0]
    for row in rows:
        assert set(row) == ROW_KEYS
        assert row["finish_reason"] in ("stop", "length") and row["prefill_seconds"] > 0
        # The document lies within the window of streaming.
        assert (row["prefill_fraction"] == 1) == (row["policy"] != "gsa@16")
        assert 1 <= row["answer_tokens"] <= 8
        assert 0 < row["fraction_read"] <= 1.5
        assert row["kv_bytes_per_token"] > 0 and row["peak_memory_bytes"] > 1e6
    full = rows[0]
    assert full["fraction_read"] == pytest.approx(1) and full["nominal_ratio"] == 1
    assert len({row["context_tokens"] for row in rows}) == 1


def test_streamed_answers_equal_those_in_json(gsa, model, document):
    questions = ("--question", "Who jumps?", "--question", "Over whom?")
    streamed = ask(gsa, model, document, *questions, "--policy", "full", "--quiet")
    rows = ask(gsa, model, document, *questions, "--policy", "full", "--json").json()["results"]
    assert streamed.code == 0 and streamed.err == ""
    assert streamed.out == "".join(f"> {row['question']}\n{row['answer']}\n" for row in rows)


def test_numbers_go_to_standard_error(gsa, model, document):
    result = ask(gsa, model, document, "--question", "Who?", "--policy", "full")
    assert result.code == 0
    assert "of full attention's key reads" in result.err
    assert "of the keys read" in result.err and "of the keys read" not in result.out


def test_no_progress_bar_without_a_terminal(gsa, model, document):
    assert "\r" not in ask(gsa, model, document, "--question", "Who?").err


def test_progress_bar_on_a_terminal_is_removed(model, document):
    ours, theirs = pty.openpty()
    command = [PROGRAM, "ask", "--model", model, "--doc", document, "--question", "Who?", *SHORT]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=theirs, check=True)
    shown = os.read(ours, 1 << 16).decode()
    os.close(theirs)
    os.close(ours)
    bar, clear, rest = shown.rpartition("\r\033[K")
    assert "meanpool@8 [####" in bar
    assert clear and "of the keys read" in rest


def test_a_reader_that_left_ends_the_program_quietly(model, document):
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [PROGRAM, "ask", "--model", model, "--doc", document, "--question", "Who?", *SHORT, "--quiet"]
    done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE)
    os.close(write_end)
    assert done.returncode == -signal.SIGPIPE and done.stderr == b""


def test_compare_prints_one_table(gsa, model, document):
    result = ask(gsa, model, document, "--question", "Who jumps?", "--compare", "full,meanpool@16,streaming")
    lines = result.out.splitlines()
    assert lines[0].split("  ")[0] == "policy"
    for column in ("tokens read", "prefill s", "ms/token", "keys read", "KV/token", "peak memory", "answer"):
        assert column in lines[0]
    assert "Who jumps?" in lines
    for policy in ("full", "meanpool@16", "streaming"):
        assert sum(line.startswith(policy) for line in lines) == 1


def test_a_question_asked_twice_is_answered_twice(gsa, model, document):
    questions = ("--question", "Who jumps?", "--question", "Who jumps?")
    result = ask(gsa, model, document, *questions, "--compare", "full,streaming")
    lines = result.out.splitlines()
    assert lines.count("Who jumps?") == 2
    assert [line.split(" ")[0] for line in lines if line.startswith(("full", "streaming"))] == ["full", "streaming"] * 2


def test_document_from_standard_input(gsa, model, document):
    args = ("--question", "Who?", "--policy", "full", "--json")
    piped = ask(gsa, model, "-", *args, stdin=document.read_bytes()).json()["results"][0]
    from_file = ask(gsa, model, document, *args).json()["results"][0]
    assert piped["answer"] == from_file["answer"]
    assert piped["context_tokens"] == from_file["context_tokens"]


def test_several_documents_are_all_read(gsa, model, document):
    args = ("--question", "Who?", "--policy", "full", "--json")
    one = ask(gsa, model, document, *args).json()["results"][0]["context_tokens"]
    two = ask(gsa, model, document, "--doc", document, *args).json()["results"][0]["context_tokens"]
    assert 1.5 * one < two


def test_sampling_follows_its_seed(gsa, model, document):
    def answer(seed):
        args = ("--question", "Who?", "--policy", "full", "--temperature", "1.5", "--seed", seed, "--json")
        return ask(gsa, model, document, *args).json()["results"][0]["answer"]

    answers = [answer(seed) for seed in ("1", "1", "2", "3")]
    assert answers[0] == answers[1]
    assert len(set(answers)) > 1


def test_untrained_gists_are_said(gsa, model, document):
    assert "untrained" in ask(gsa, model, document, "--question", "Who?", "--policy", "gsa@16").err
    assert "untrained" not in ask(gsa, model, document, "--question", "Who?", "--policy", "meanpool@16").err


def test_adapter_changes_what_gists_say(gsa, model, document, make_adapter, tmp_path):
    adapter = make_adapter(tmp_path / "random.safetensors", model)
    args = ("--question", "Who?", "--adapter", adapter, "--compare", "gsa@8,gsa@8:adapter=none,gsa@8:adapter=random")
    result = ask(gsa, model, document, *args, "--json")
    assert "trained for chunk sizes 16, not for 8" in result.err
    assert result.json()["adapter"] == "random"
    with_adapter, without, by_name = (row["answer"] for row in result.json()["results"])
    assert with_adapter == by_name != without


def test_model_by_name_in_a_folder_of_models(gsa, model, document, tmp_path):
    os.symlink(model, tmp_path / "fox.gguf")
    result = ask(gsa, "fox", document, "--question", "Who?", "--json", env={"GSA_MODEL_DIR": str(tmp_path)})
    assert result.json()["model"] == "fox"


def test_hugging_face_directory(gsa, models, document):
    assert ask(gsa, models / "qwen3", document, "--question", "Who?", "--json").json()["results"]


def test_ill_formed_bytes_are_replaced_with_one_warning(gsa, model, tmp_path):
    path = tmp_path / "latin1.txt"
    path.write_bytes(b"na\xefve \xe9")
    result = ask(gsa, model, path, "--question", "Who?")
    assert result.code == 0
    warnings = [line for line in result.err.splitlines() if "warning" in line]
    assert len(warnings) == 1 and "latin1.txt" in warnings[0]
    assert " 2" in warnings[0]  # offset of the first bad byte


def test_a_document_beyond_the_window_is_read_with_a_warning(gsa, model, tmp_path):
    path = tmp_path / "long.txt"
    path.write_text(FOX * 100)
    result = ask(gsa, model, path, "--question", "Who?", "--policy", "full", "--json")
    num_tokens = result.json()["results"][0]["context_tokens"]
    assert num_tokens > 256
    assert str(num_tokens) in result.err and "256" in result.err


def test_interrupt_ends_with_130(model, tmp_path):
    path = tmp_path / "long.txt"
    path.write_text(FOX * 20000)
    command = [PROGRAM, "ask", "--model", model, "--doc", path, "--question", "Who?", "--policy", "full",
               "--max-tokens", "4"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    process.stderr.readline()  # the warning that the text is long: reading begins
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    process.stderr.close()
    assert process.wait(timeout=60) == 130


def test_text_that_looks_like_options_and_lists(gsa, model, document):
    for question in ("-5 or --five?", "[who] is [it]", "a,b", "%s {} \\n"):
        result = ask(gsa, model, document, "--question", question, "--json").json()
        assert [row["question"] for row in result["results"]] == [question]


def test_a_document_that_is_one_long_line(gsa, model, tmp_path):
    path = tmp_path / "line.txt"
    path.write_text("x" * 100_000)
    args = ("--question", "Who?", "--policy", "streaming:tokens=64", "--json")
    assert ask(gsa, model, path, *args).json()["results"][0]["context_tokens"] > 1000
