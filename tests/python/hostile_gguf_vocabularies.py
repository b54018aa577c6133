"""Writes small GGUF files whose vocabulary is damaged, each in one way.

usage: hostile_gguf_vocabularies.py OUT_DIR

Every file is named after the word that the error message has to contain; good.gguf and
good sentencepiece.gguf are not damaged.
"""

import sys
from pathlib import Path

from gguf import GGUFWriter

PREFIX = "tokenizer.ggml."
LETTERS = [chr(c) for c in range(0x21, 0x7F)]


def metadata():
    tokens = [*LETTERS, "ab", "<|end|>"]
    return {
        "model": "gpt2", "pre": "gpt-2", "tokens": tokens, "merges": ["a b"],
        "token_type": [1] * (len(tokens) - 1) + [3], "bos_token_id": len(tokens) - 1, "eos_token_id": len(tokens) - 1,
    }


def sentencepiece_metadata():
    tokens = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *LETTERS, "ab"]
    return {
        "model": "llama", "tokens": tokens, "scores": [-float(i) for i in range(len(tokens))],
        "token_type": [2, 3] + [6] * 256 + [1] * (len(tokens) - 258), "bos_token_id": 1,
    }


def sentencepiece_damages():
    good = sentencepiece_metadata()
    tokens, scores = good["tokens"], good["scores"]
    without_byte = [token.replace("<0x4A>", "jay") for token in tokens]
    return {
        "good sentencepiece": {},
        "ggml.scores' is missing": {"scores": None},
        "ggml.scores' is an array of strings": {"scores": ["0"] * len(tokens)},
        "tokens but 3 scores": {"scores": scores[:3]},
        "score of token 300 is not a number": {"scores": scores[:300] + [float("nan")] + scores[301:]},
        "token <0x4A> is missing": {"tokens": without_byte},
        "token <0x00> is missing": {"token_type": [2, 3] + [3] * 256 + [1] * (len(tokens) - 258)},
        "at most 1024 are read": {"tokens": tokens[:-1] + ["a" * 1025]},
        "tokens but 2 token types": {"token_type": [1, 3]},
        "bos_token_id is 9000": {"bos_token_id": 9000},
    }


def write(path, fields):
    writer = GGUFWriter(path, "llama")
    for key, value in fields.items():
        if isinstance(value, str):
            writer.add_string(PREFIX + key, value)
        elif isinstance(value, list):
            writer.add_array(PREFIX + key, value)
        else:
            writer.add_uint32(PREFIX + key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    missing = None
    damages = {
        "good": {},
        "'t5'": {"model": "t5"},
        "'martian'": {"pre": "martian"},
        "tokenizer.ggml.model": {"model": missing},
        "tokenizer.ggml.tokens": {"tokens": missing},
        "tokenizer.ggml.merges": {"merges": missing},
        "ggml.tokens": {"tokens": "text"},
        "ggml.merges": {"merges": [1, 2]},
        "token types": {"token_type": [1, 2, 3]},
        "not two tokens": {"merges": ["ab"]},
        "names a token": {"merges": ["a b", "a c"]},
        "bos_token_id": {"bos_token_id": 4_000_000_000},
        "eos_token_id": {"eos_token_id": 1000},
        "eot_token_id": {"eot_token_id": 2**31},
    }
    for good, cases in ((metadata(), damages), (sentencepiece_metadata(), sentencepiece_damages())):
        for word, damage in cases.items():
            fields = {key: value for key, value in {**good, **damage}.items() if value is not missing}
            write(str(out / f"{word}.gguf"), fields)


if __name__ == "__main__":
    main()
