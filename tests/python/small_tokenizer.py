"""Writes a small tokenizer.json with added tokens of every kind, and its tokenizer_config.json.

usage: small_tokenizer.py OUT_DIR
"""

import json
import sys
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers


def main():
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\r?\n"), "isolated"),
        pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train([__file__], trainer)
    tokenizer.add_special_tokens([
        AddedToken("<s>", special=True),
        AddedToken("<|im_end|>", special=True),
        AddedToken("<left>", lstrip=True, special=True),
        AddedToken("<normal>", normalized=True, special=True),
    ])
    tokenizer.add_tokens([
        AddedToken("<right>", rstrip=True, normalized=False),
        AddedToken("<both>", lstrip=True, rstrip=True, normalized=False),
        AddedToken("ab", single_word=True, normalized=False),
        AddedToken("<|im", normalized=False),
        AddedToken("e\u0301", normalized=True),
        AddedToken("  tokens", lstrip=True, single_word=True),
        AddedToken("日本", normalized=False),
    ])
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A <|im_end|>", special_tokens=[("<s>", bos), ("<|im_end|>", bos + 1)])
    tokenizer.save(str(out / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": {"content": "<|im_end|>"},
              "chat_template": [{"name": "tool", "template": "T"}, {"name": "default", "template": "D"}]}
    (out / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


if __name__ == "__main__":
    main()
