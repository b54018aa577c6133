"""gsa train prepare: text and questions to shards, as a user calls it."""

import gzip
import json
import lzma
import signal
import subprocess
import time

import pytest
from conftest import PROGRAM

TEXT = "The quick brown fox jumps over the lazy dog and the cat. Twelve foxes jump.\n" * 40
QUESTIONS = [
    {"question": "Who jumps?", "answers": ["the fox"], "passages": ["The fox jumps.", "It rains."]},
    {"question": "What falls?", "answer": "the rain", "context": "It rains: the rain falls."},
    {"question": "What is secret?", "answer": "this", "context": "A text that only the test may have."},
]


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def metadata(path):
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header["__metadata__"], header


def test_cpt_from_every_packing(gsa, model, tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress(TEXT.encode()))
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(TEXT.replace("\n", "\r\n").encode()))
    write_lines(tmp_path / "a.jsonl", [{"text": TEXT}])
    digests = set()
    for name in ("a.txt", "a.txt.xz", "a.txt.gz", "a.jsonl"):
        out = tmp_path / "out.gsa"
        report = gsa("train", "prepare", "cpt", "-m", model, "--data", tmp_path / name, "--out", out,
                     "--row-len", "32", "--json").json()
        assert report["windows"] > 5 and report["tokens"] == 32 * report["windows"]
        assert report["sources"][0]["name"] == name and report["sources"][0]["kept"] == 1
        info, header = metadata(out)
        assert info["digest"] == report["digest"] and info["kind"] == "cpt"
        assert header["tokens"]["shape"] == [report["windows"], 32]
        digests.add(report["digest"])
    assert len(digests) == 1


def test_same_file_whatever_the_threads(gsa, model, tmp_path):
    data = write_lines(tmp_path / "a.jsonl", [{"text": TEXT[i * 7 :][:400]} for i in range(50)])
    files = []
    for i, threads in enumerate((1, 3)):
        out = tmp_path / f"{i}.gsa"
        result = gsa("train", "prepare", "cpt", "-m", model, "-d", f"{data}:3k", "-o", out, "--row-len", "50",
                     "--hold-out", "0.2", "--hold-out-file", tmp_path / f"{i}.held", "-t", threads, "--seed", "4")
        assert result.code == 0 and "3000 tokens" in result.out and "held out" in result.out
        files.append((out.read_bytes(), (tmp_path / f"{i}.held").read_bytes()))
    assert files[0] == files[1]


def test_ft_drops_what_is_evaluated(gsa, model, tmp_path):
    data = write_lines(tmp_path / "qa.jsonl", QUESTIONS)
    test_set = write_lines(tmp_path / "test.jsonl", [{"input": "?", "documents": [QUESTIONS[2]["context"]]}])
    args = ("train", "prepare", "ft", "-m", model, "--data", data, "--out", tmp_path / "qa.gsa",
            "--max-question", "100", "--max-answer", "100")
    assert gsa(*args, "--json").json()["questions"] == 3
    report = gsa(*args, "--exclude", test_set, "--json").json()
    assert report["questions"] == 2 and report["passages"] == 3
    assert report["sources"][0]["dropped"] == {"in an evaluation set": 1}
    assert report["sources"][0]["overlap"]["share"] <= 0.05
    text = gsa(*args, "--exclude", test_set)
    assert "2 of 3 questions" in text.out and "13-grams" in text.out


@pytest.mark.parametrize(
    "content, args, part",
    [
        (b"", (), "it is empty"),
        (b"\x7fELF\x00\x01\x02", (), "byte 4 is zero"),
        (b"short", (), "no window"),
        (b'{"body": "x"}\n', (), "has no field 'text'; it has body"),
        (b'{"text": \n', (), "data:1"),
        (TEXT.encode(), ("--row-len", "1"), "a row of 1 tokens"),
        (TEXT.encode(), ("--hold-out", "0.5"), "--hold-out-file"),
        (TEXT.encode(), ("--data", "none.txt"), "none.txt"),
        (TEXT.encode(), ("--exclude", "none.txt"), "none.txt"),
        (TEXT.encode(), ("--threads", "0"), "--threads"),
        (TEXT.encode(), ("--data", "OUT"), "another --out"),
    ],
)
def test_bad_cpt_input(gsa, model, tmp_path, content, args, part):
    data = tmp_path / "data"
    data.write_bytes(content)
    out = tmp_path / "out.gsa"
    out.write_text("old")
    args = [str(out) if arg == "OUT" else arg for arg in args]
    result = gsa("train", "prepare", "cpt", "-m", model, "--data", data, "--out", out, *args)
    assert result.code == 2 and part in result.error_line()
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out.gsa"]


def test_bad_ft_input(gsa, model, tmp_path):
    data = write_lines(tmp_path / "qa.jsonl", [*QUESTIONS, {"query": "?"}])
    result = gsa("train", "prepare", "ft", "-m", model, "--data", data, "--out", tmp_path / "qa.gsa")
    assert result.code == 2 and "qa.jsonl:4: has no field 'question'" in result.error_line()
    result = gsa("train", "prepare", "ft", "-m", model, "--data", data, "--out", tmp_path / "no" / "qa.gsa")
    assert result.code == 1 and "no/qa.gsa" in result.error_line()


def test_interrupt_leaves_nothing(model, tmp_path):
    write_lines(tmp_path / "a.jsonl", [{"text": TEXT * 20}] * 2000)
    command = [PROGRAM, "train", "prepare", "cpt", "-m", str(model), "--data", str(tmp_path / "a.jsonl"),
               "--out", str(tmp_path / "out.gsa"), "-t", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
