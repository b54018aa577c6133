"""gsa ask: answers, tables, JSON."""

import os
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
    "nominal_ratio",
    "fraction_read",
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
    for row in rows:
        assert ROW_KEYS <= set(row)
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
    assert "of the keys read" in result.err and "of the keys read" not in result.out


def test_no_progress_bar_without_a_terminal(gsa, model, document):
    assert "\r" not in ask(gsa, model, document, "--question", "Who?").err


def test_compare_prints_one_table(gsa, model, document):
    result = ask(gsa, model, document, "--question", "Who jumps?", "--compare", "full,meanpool@16,streaming")
    lines = result.out.splitlines()
    assert lines[0].split("  ")[0] == "policy"
    for column in ("tokens read", "prefill s", "ms/token", "keys read", "KV/token", "peak memory", "answer"):
        assert column in lines[0]
    assert "Who jumps?" in lines
    for policy in ("full", "meanpool@16", "streaming"):
        assert sum(line.startswith(policy) for line in lines) == 1


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
