"""Writes tokenizer.json for the SentencePiece vocabulary of a GGUF file.

usage: sentencepiece_json_from_gguf.py GGUF SPACES OUT_DIR

SPACES says where spaces become "▁": prepend (by the normalizer), or always, first, never, split (by the
pre-tokenizer Metaspace, which puts one in front always, at the start, or never, or also cuts at each).
OUT_DIR gets tokenizer.json and tokenizer_config.json.
"""

import json
import sys
from pathlib import Path

from gguf import GGUFReader

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
SPACE = "\u2581"
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
NORMALIZER = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, REPLACE]}
DECODERS = [
    {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0},
]


def merges_by_score(tokens, scores, types):
    """Every way to put a token together from two, the highest score first."""
    score_of = {token: score for token, score, kind in zip(tokens, scores, types) if kind == NORMAL}
    merges = []
    for token, score in score_of.items():
        for cut in range(1, len(token)):
            if token[:cut] in score_of and token[cut:] in score_of:
                merges.append((score, token[:cut], token[cut:]))
    merges.sort(key=lambda merge: -merge[0])
    return [[left, right] for _, left, right in merges]


def metaspace(spaces):
    scheme = "always" if spaces == "split" else spaces
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": spaces == "split"}


def main():
    reader = GGUFReader(sys.argv[1])
    spaces = sys.argv[2]

    def value(name):
        return reader.fields[f"tokenizer.ggml.{name}"].contents()

    tokens, scores, types = value("tokens"), value("scores"), value("token_type")
    is_padding = [token == f"[PAD{i}]" for i, token in enumerate(tokens)]
    kept_text = {"<unk>", "<s>", "<|endoftext|>"}  # the others take the white space behind them
    added = [
        {"id": i, "content": token, "single_word": False, "lstrip": False,
         "rstrip": "<|end|>" in tokens and token not in kept_text, "normalized": False, "special": kind != USER_DEFINED}
        for i, (token, kind) in enumerate(zip(tokens, types)) if kind not in (NORMAL, BYTE) and not is_padding[i]
    ]
    bos = tokens[value("bos_token_id")]
    has_prepend = spaces == "prepend"
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": NORMALIZER if has_prepend else None, "pre_tokenizer": None if has_prepend else metaspace(spaces),
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {bos: {"id": bos, "ids": [value("bos_token_id")], "tokens": [bos]}},
        },
        "decoder": {"type": "Sequence", "decoders": DECODERS[: 3 if spaces == "never" else 4]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True,
                  "vocab": {token: i for i, token in enumerate(tokens) if not is_padding[i]},
                  "merges": merges_by_score(tokens, scores, types)},
    }
    config = {"bos_token": bos, "eos_token": tokens[value("eos_token_id")]}
    out = Path(sys.argv[3])
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    (out / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


if __name__ == "__main__":
    main()
