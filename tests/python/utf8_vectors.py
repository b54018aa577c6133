"""Writes random byte strings and what Python decodes them to.

usage: utf8_vectors.py FILE   ->   records of: u32 length, bytes, u32 length, decoded text as UTF-8
"""

import random
import struct
import sys

NUM_STRINGS = 20_000
CHARACTERS = "aZ 0\n\0\x7f\u0080\u07ff\u0800\ud7ff\ue000\ufffd\uffff\U00010000\U0010ffffñ中😀"
# Bytes at which the rules change.
EDGES = bytes([0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1,
               0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xF8, 0xFE, 0xFF])  # fmt: skip


def random_bytes(rng: random.Random) -> bytes:
    """Valid text, cut characters, edge bytes and noise in random order."""
    parts = []
    for _ in range(rng.randrange(12)):
        character = rng.choice(CHARACTERS).encode("utf-8")
        kind = rng.randrange(5)
        if kind == 0:
            parts.append(character)
        elif kind == 1:
            parts.append(character[: rng.randrange(len(character)) + 1])
        elif kind == 2:
            parts.append(bytes(rng.choices(EDGES, k=rng.randrange(1, 5))))
        elif kind == 3:
            parts.append(rng.randbytes(rng.randrange(1, 5)))
        else:
            parts.append(b"plain ascii text"[: rng.randrange(17)])
    return b"".join(parts)


def main() -> None:
    rng = random.Random(3)
    with open(sys.argv[1], "wb") as file:
        for _ in range(NUM_STRINGS):
            raw = random_bytes(rng)
            text = raw.decode("utf-8", errors="replace").encode("utf-8")
            for part in (raw, text):
                file.write(struct.pack("<I", len(part)) + part)


if __name__ == "__main__":
    main()
