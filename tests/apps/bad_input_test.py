"""Every bad input gets one clear line and its exit code."""

import os
import random
import resource

import pytest

from conftest import FOX, WINDOW

USAGE, FAILURE = 2, 1


@pytest.fixture
def refuse(gsa, model, document):
    """Runs `gsa ask` with changes to a good command line and returns the error line."""

    def run(*args, model=model, doc=document, question="Who?", max_tokens=4, code=USAGE, **kwargs):
        command = ("ask", "--model", model, "--doc", doc, "--question", question,
                   "--max-tokens", str(max_tokens), *args)
        result = gsa(*command, **kwargs)
        assert result.code == code, (result.code, result.out, result.err)
        assert result.out == ""
        return result.error_line()

    return run


def test_missing_document(refuse, tmp_path):
    assert "nowhere.txt" in refuse(doc=tmp_path / "nowhere.txt")


def test_empty_document(refuse, tmp_path):
    (tmp_path / "empty.txt").touch()
    line = refuse(doc=tmp_path / "empty.txt")
    assert "empty.txt" in line and "empty:" in line


def test_empty_standard_input(refuse):
    assert "standard input" in refuse(doc="-")


def test_standard_input_twice(refuse):
    assert "once" in refuse("--doc", "-", doc="-", stdin=b"text")


def test_folder_as_document(refuse, tmp_path):
    assert "directory" in refuse(doc=tmp_path)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_other_encodings_are_named(refuse, tmp_path, encoding):
    path = tmp_path / "wide.txt"
    path.write_bytes("\ufeffSome text".encode(encoding))
    assert encoding[:6].upper() in refuse(doc=path).upper()


@pytest.mark.parametrize(
    "policy, named",
    [
        ("nonsense", "nonsense"),
        ("gsa@0", "0"),
        ("gsa@4-0", "4-0"),
        ("gsa@x", "x"),
        ("gsa@4--4", "4--4"),
        ("gsa@", "gsa@"),
        ("gsa@16:mood=good", "mood"),
        ("gsa@16:tokens=many", "many"),
        ("full@16", "@16"),
        ("meanpool@4-4", "4-4"),
        ("", "''"),
    ],
)
def test_unknown_policy(refuse, policy, named):
    assert named in refuse("--policy", policy)
    assert named in refuse("--compare", policy)


@pytest.mark.parametrize("policies", ["full,,gsa", ",full", "full,", ","])
def test_empty_entry_among_policies(gsa, refuse, model, policies):
    assert f"'{policies}' has an empty entry" in refuse("--compare", policies)
    result = gsa("bench", "decode", "--model", model, "--policies", policies)
    assert result.code == USAGE and f"'{policies}' has an empty entry" in result.error_line()


def test_several_policies_where_one_is_wanted(refuse):
    line = refuse("--policy", "full,gsa")
    assert "full,gsa" in line and "--compare" in line


@pytest.mark.parametrize("command", ["chat", "inspect"])
@pytest.mark.parametrize("policy", ["gsa@0", "gsa@4-0", "gsa@x", "nonsense"])
def test_other_commands_refuse_policies_too(gsa, model, document, command, policy):
    result = gsa(command, "--model", model, "--doc", document, "--policy", policy)
    assert result.code == USAGE and result.out == ""
    assert policy.removeprefix("gsa@") in result.error_line()


def test_policy_and_compare_exclude_each_other(refuse):
    assert "--policy" in refuse("--policy", "full", "--compare", "full,gsa")


def test_empty_question(refuse):
    assert "question" in refuse(question=" \n")


def test_question_longer_than_the_window(refuse):
    line = refuse(question=FOX * 40)
    assert "256" in line and "question" in line


@pytest.mark.parametrize("max_tokens", ["0", "many"])
def test_number_of_tokens_out_of_range(refuse, max_tokens):
    assert "max-tokens" in refuse(max_tokens=max_tokens)


def test_answer_longer_than_the_window(refuse):
    assert "256" in refuse(max_tokens=300)


def test_an_answer_without_a_limit_ends_with_the_window(gsa, model, document):
    result = gsa("ask", "--model", model, "--doc", document, "--question", "Who?", "--policy", "full", "--json")
    assert 1 <= result.json()["results"][0]["answer_tokens"] < WINDOW


@pytest.mark.parametrize(
    "option, value",
    [
        ("--temperature", "-1"),
        ("--temperature", "nan"),
        ("--top-k", "-1"),
        ("--top-p", "0"),
        ("--top-p", "2"),
        ("--min-p", "1.5"),
        ("--repetition-penalty", "0"),
        ("--seed", "-1"),
        ("--threads", "0"),
        ("--segment", "0"),
        ("--thinking", "maybe"),
        ("--device", "abacus"),
        ("--device", "cuda:x"),
        ("--dtype", "f99"),
        ("--chat-template", "morse"),
        ("--no-such-option", "1"),
    ],
)
def test_options_out_of_range(refuse, option, value):
    line = refuse(option, value)
    assert option.strip("-").replace("-", "_") in line.replace("-", "_") and value in line


@pytest.mark.parametrize(
    "option, value, bounds",
    [
        ("--segment", "0", "1 or more"),
        ("--max-tokens", "inf", "1 or more"),
        ("--seed", "nan", "0 or more"),
        ("--threads", "1025", "1 to 1024"),
        ("--threads", "1e3", "1 to 1024"),
        ("--threads", "1.5", "1 to 1024"),
        ("--threads", "", "1 to 1024"),
    ],
)
def test_numbers_out_of_range_are_told_the_bounds(refuse, option, value, bounds):
    assert f"{option}: '{value}': give a whole number, {bounds} (" in refuse(option, value)


def test_device_that_is_not_there(refuse):
    assert "cuda:99" in refuse("--device", "cuda:99", code=FAILURE)


def limit_memory(num_bytes):
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (num_bytes, num_bytes))


def test_exhausted_memory_is_one_line(refuse, tmp_path):
    path = tmp_path / "long.txt"
    path.write_text(FOX * 14000)
    # Keys and values of 200k tokens are 1 kB each; the program itself maps more than the rest of this.
    line = refuse("--policy", "streaming:tokens=64", "--threads", "1", "--dtype", "f32", doc=path, code=FAILURE,
                  preexec_fn=limit_memory(600_000_000))
    assert "out of memory" in line


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_output_that_cannot_be_written(gsa, model):
    with open("/dev/full", "wb") as full:
        result = gsa("info", "--model", model, stdout=full)
    assert result.code == FAILURE
    assert "standard output" in result.error_line()


@pytest.mark.parametrize("args", [(), ("ask",), ("ask", "--model", "m"), ("no-such-command",), ("bench", "swim")])
def test_incomplete_commands(gsa, args):
    result = gsa(*args)
    assert result.code == USAGE
    assert "--help" in result.error_line()


def test_unknown_model_name_lists_places(refuse, tmp_path):
    line = refuse(model="no-such-model", env={"GSA_MODEL_DIR": str(tmp_path)})
    assert "no-such-model" in line and str(tmp_path / "no-such-model.gguf") in line


def test_missing_model_file(refuse, tmp_path):
    assert "gone.gguf" in refuse(model=tmp_path / "gone.gguf")


def test_text_file_as_model(refuse, document):
    assert "fox.txt" in refuse(model=document)


def test_folder_without_model(refuse, tmp_path):
    assert str(tmp_path) in refuse(model=tmp_path)


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.3, 0.9, 0.999])
def test_cut_gguf(refuse, model, tmp_path, share):
    data = model.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(data[: int(len(data) * share)])
    assert "cut.gguf" in refuse(model=path)


def test_flipped_bytes_in_the_header_are_refused_or_harmless(gsa, model, tmp_path):
    data = model.read_bytes()
    header_len = data.index(b"<|im_end|>")  # sizes, keys and the first tokens
    generator = random.Random(1)
    path = tmp_path / "flipped.gguf"
    num_refused = 0
    for _ in range(40):
        damaged = bytearray(data)
        damaged[generator.randrange(header_len)] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        result = gsa("info", "--model", path)
        assert result.code in (0, USAGE), result.err
        if result.code == USAGE:
            assert result.out == "" and result.error_line()
            num_refused += 1
    assert num_refused > 4


def copy_of(folder, target):
    """A copy that may be changed, made of links."""
    target.mkdir()
    for file in folder.iterdir():
        os.symlink(file, target / file.name)
    return target


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {"type": "Unigram"}}'])
def test_unreadable_tokenizer(refuse, models, tmp_path, content):
    folder = copy_of(models / "llama", tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").write_text(content)
    assert "tokenizer" in refuse(model=folder)


def test_missing_tokenizer(refuse, models, tmp_path):
    folder = copy_of(models / "llama", tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    assert "tokenizer.json" in refuse(model=folder)


def test_adapter_of_another_base(gsa, refuse, make_adapter, model, tmp_path):
    adapter = make_adapter(tmp_path / "other.safetensors", model, fingerprint="0" * 64)
    line = refuse("--adapter", adapter, "--policy", "gsa@16")
    assert "0" * 64 in line and gsa("info", "--model", model, "--json").json()["fingerprint"] in line


def test_file_that_is_no_adapter(refuse, document):
    assert "fox.txt: is no safetensors file" in refuse("--adapter", document)


def test_unknown_adapter_name(refuse):
    assert "mine" in refuse("--policy", "gsa@16:adapter=mine")


@pytest.mark.parametrize("text", ["a", " ", " \n\t " * 40], ids=["one token", "one space", "spaces"])
@pytest.mark.parametrize("policy", ["full", "gsa@16", "gsa@4-4", "meanpool@16", "streaming"])
def test_tiny_documents_work(gsa, model, tmp_path, text, policy):
    path = tmp_path / "tiny.txt"
    path.write_text(text)
    command = ("ask", "--model", model, "--doc", path, "--question", "Who?", "--max-tokens", "4", "--policy", policy)
    result = gsa(*command, "--json")
    assert result.json()["results"][0]["answer_tokens"] >= 1


@pytest.mark.parametrize("policy", ["streaming:tokens=128", "gsa@16:tokens=64"])
def test_a_document_of_200k_tokens_works_or_says_what_it_needs(gsa, model, tmp_path, policy):
    path = tmp_path / "huge.txt"
    path.write_text(FOX * 14000)
    command = ("ask", "--model", model, "--doc", path, "--question", "Who?", "--max-tokens", "4", "--policy", policy)
    result = gsa(*command, "--json", timeout=280)
    if result.code == FAILURE:
        assert "memory" in result.error_line()
    else:
        assert result.json()["results"][0]["context_tokens"] > 200_000
