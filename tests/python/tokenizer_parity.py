"""Encodes at least 2 MB of mixed text with the `tokenizers` package, for a comparison.

usage: tokenizer_parity.py TOKENIZER_JSON OUT

OUT holds records of six parts: byte length of a text, the text, number of its ids, the ids, byte
length of the text that decodes from them, that text (lengths and ids are little-endian 32-bit
integers). The texts are the same in every run of one Python.
"""

import random
import struct
import sys
import sysconfig
from pathlib import Path

from tokenizers import Tokenizer

SOURCE_BYTES = 1_200_000
PIECE_LEN = 3000

SPACES = " \t\n\r\v\f\x85\xa0\u1680\u180e\u2000\u2003\u2009\u200b\u2028\u2029\u202f\u205f\u3000\x1c\x1f"
EMOJI = ["😀", "👩\u200d👩\u200d👧\u200d👦", "👍🏽", "🇩🇪", "🇯🇵", "❤\ufe0f", "1\ufe0f\u20e3", "🏴\u200d☠\ufe0f", "🫠", "🧑🏿\u200d🚀"]
CONTRACTIONS = ["'s", "'T", "'re", "'VE", "'m", "'LL", "'d", "'\u017f", "\u2019s", "''s", "'sS", "'lL"]
MARKS = [chr(c) for c in [*range(0x300, 0x370), 0x5B0, 0x64E, 0x93C, 0xE48, 0x3099, 0x1DC0, 0x20D0]]
DIGITS = "0123456789٣५७๙Ⅷ½²①〇㊿𝟘"
# First and last code points of scripts in running text.
SCRIPTS = {
    "cjk": [(0x4E00, 0x9FFF), (0x3041, 0x3096), (0x30A1, 0x30FA), (0x3001, 0x3011), (0xFF01, 0xFF5E)],
    "hangul": [(0xAC00, 0xD7A3), (0x1100, 0x1175), (0x20, 0x20)],
    "hebrew": [(0x5D0, 0x5EA), (0x5B0, 0x5C2), (0x20, 0x20)],
    "arabic": [(0x621, 0x64A), (0x64B, 0x655), (0x660, 0x669), (0x20, 0x20)],
    "indic": [(0x905, 0x94D), (0x995, 0x9CD), (0x20, 0x20)],
    "thai": [(0xE01, 0xE3A), (0xE40, 0xE4E), (0x20, 0x20)],
    "latin": [(0x41, 0x7A), (0xC0, 0x24F), (0x1E00, 0x1EFF), (0x20, 0x20)],
    "greek and cyrillic": [(0x391, 0x3C9), (0x410, 0x44F), (0x20, 0x2F)],
    "young scripts": [(0x1C89, 0x1C8A), (0x10D40, 0x10D85), (0x11380, 0x113D3), (0x11F00, 0x11F59),
                      (0x13430, 0x13460), (0x16100, 0x16139), (0x1E030, 0x1E06D), (0x31350, 0x31400), (0x20, 0x20)],
}


def any_char(rng):
    """A code point that UTF-8 can hold, assigned or not, of all planes."""
    while True:
        c = rng.randrange(rng.choice([0x80, 0x800, 0x3000, 0x10000, 0x20000, 0x110000]))
        if not 0xD800 <= c < 0xE000:
            return chr(c)


def script_text(rng, ranges):
    return "".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(PIECE_LEN))


def words(rng, alphabet):
    return "".join(rng.choice(alphabet) for _ in range(rng.randint(1, 12)))


def source_texts():
    """Python's own library: code, documentation, names of people and places."""
    num_bytes = 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = path.read_bytes().decode("utf-8", errors="replace")
        for begin in range(0, len(text), 20_000):
            yield text[begin : begin + 20_000]
        num_bytes += len(text)
        if num_bytes > SOURCE_BYTES:
            return


def made_texts(rng, special_tokens):
    for _ in range(12):
        for ranges in SCRIPTS.values():
            yield script_text(rng, ranges)
    for _ in range(60):
        yield "".join(any_char(rng) for _ in range(PIECE_LEN))
    for _ in range(20):
        yield "".join(rng.choice([*EMOJI, " ", "a", ".", "\n"]) for _ in range(PIECE_LEN // 4))
        yield "".join(rng.choice(SPACES) * rng.choice([1, 1, 2, 7, 40]) + words(rng, "abz.,!é5\n") for _ in range(300))
        yield "\r\n".join(words(rng, "ab 1;") * rng.randint(0, 3) for _ in range(200))
        yield "".join(words(rng, "abcKſt") + rng.choice(CONTRACTIONS) + rng.choice(["", " "]) for _ in range(300))
        yield "".join(rng.choice("aeiouAEnK\uac00ก") + "".join(rng.choices(MARKS, k=rng.randint(0, 4))) for _ in range(800))
        yield "".join(words(rng, DIGITS) + rng.choice(" ,.-") for _ in range(300))
        yield "".join(words(rng, "ab cdé\n") + rng.choice(special_tokens) + rng.choice(SPACES) * rng.randint(0, 3) for _ in range(100))
        # Damaged control tokens, which are ordinary text.
        yield "".join(rng.choice(special_tokens)[: rng.randint(1, 12)] + rng.choice(["", "|", ">", "|>"]) for _ in range(200))
    for char in [" ", "\t", "\n", "a", "0", ".", "中", "é", "\u0301", "\0", "\u00a0"]:
        yield char * 5000
        yield "x" + char * 1000 + "y"
    # Every code point once, behind a letter and in front of one.
    chars = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000 and (c < 0x33480 or c > 0xE0000 and c < 0xE0200)]
    for begin in range(0, len(chars), 2000):
        yield "".join("a" + c + "b " for c in chars[begin : begin + 2000])
    yield ""


def main():
    tokenizer = Tokenizer.from_file(sys.argv[1])
    special_tokens = [token.content for token in tokenizer.get_added_tokens_decoder().values()][:40]
    texts = [*source_texts(), *made_texts(random.Random(7), special_tokens)]
    num_bytes = sum(len(text.encode()) for text in texts)
    assert num_bytes >= 2_000_000, num_bytes
    with open(sys.argv[2], "wb") as out:
        for text, encoding in zip(texts, tokenizer.encode_batch(texts, add_special_tokens=False)):
            data = text.encode()
            ids = encoding.ids
            decoded = tokenizer.decode(ids, skip_special_tokens=False).encode()
            out.write(struct.pack("<I", len(data)) + data + struct.pack(f"<I{len(ids)}i", len(ids), *ids))
            out.write(struct.pack("<I", len(decoded)) + decoded)


if __name__ == "__main__":
    main()
