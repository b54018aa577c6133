"""Writes small GGUF files whose vocabulary is damaged, each in one way.

usage: hostile_gguf_vocabularies.py OUT_DIR

Every file is named after the word that the error message has to contain; good.gguf is not damaged.
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
        "'llama'": {"model": "llama"},
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
    for word, damage in damages.items():
        fields = {key: value for key, value in {**metadata(), **damage}.items() if value is not missing}
        write(str(out / f"{word}.gguf"), fields)


if __name__ == "__main__":
    main()
