"""Writes the tokenizer.json that stands behind the vocabulary of a GGUF file.

usage: tokenizer_json_from_gguf.py GGUF OUT_DIR

Knows the pre-tokenizers smollm and gpt-2. OUT_DIR gets tokenizer.json and tokenizer_config.json.
"""

import json
import sys
from pathlib import Path

from gguf import GGUFReader

NORMAL, CONTROL, UNUSED = 1, 3, 5
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
PRE_TOKENIZERS = {"gpt-2": BYTE_LEVEL, "smollm": {"type": "Sequence", "pretokenizers": [DIGITS, BYTE_LEVEL]}}


def main():
    reader = GGUFReader(sys.argv[1])

    def value(name, default=None):
        field = reader.fields.get(f"tokenizer.{name}")
        return default if field is None else field.contents()

    tokens = value("ggml.tokens")
    types = value("ggml.token_type")
    added = [
        {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": kind == CONTROL}
        for i, (token, kind) in enumerate(zip(tokens, types)) if kind not in (NORMAL, UNUSED)
    ]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": PRE_TOKENIZERS[value("ggml.pre")],
        "post_processor": {**BYTE_LEVEL, "trim_offsets": False}, "decoder": BYTE_LEVEL,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "vocab": {token: i for i, token in enumerate(tokens)}, "merges": value("ggml.merges")},
    }
    config = {
        "bos_token": tokens[value("ggml.bos_token_id")], "eos_token": tokens[value("ggml.eos_token_id")],
        "chat_template": value("chat_template"), "tokenizer_class": "GPT2Tokenizer",
    }
    out = Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    (out / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


if __name__ == "__main__":
    main()
