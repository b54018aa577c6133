"""Writes random blocks of every weight type and what the gguf package makes of them, and the other way round.

usage: quant_vectors.py DIR   ->   DIR/<TYPE>.blocks, DIR/<TYPE>.f32
                                   DIR/values.f32, DIR/<TYPE>.quantized
"""

import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import dequantize, quantize
from gguf.constants import GGML_QUANT_SIZES

NUM_BLOCKS = 512
# Where a block's f16 fields (scale, minimum) lie.
F16_FIELDS = {
    Type.Q8_0: [0], Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2],
    Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208],
}


def random_blocks(rng: np.random.Generator, quant_type: Type) -> np.ndarray:
    """Every byte random; the f16 fields are finite: zeros and subnormals among them."""
    block_bytes = GGML_QUANT_SIZES[quant_type][1]
    blocks = rng.integers(0, 256, (NUM_BLOCKS, block_bytes), dtype=np.uint8)
    for offset in F16_FIELDS[quant_type]:
        magnitude = rng.integers(0, 0x7C00, NUM_BLOCKS, dtype=np.uint16)
        magnitude[:32] = rng.integers(0, 0x400, 32)
        magnitude[0] = 0
        sign = rng.integers(0, 2, NUM_BLOCKS, dtype=np.uint16) << 15
        blocks[:, offset : offset + 2] = (magnitude | sign).view(np.uint8).reshape(-1, 2)
    return blocks


WRITTEN = [Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1]


def random_values(rng: np.random.Generator) -> np.ndarray:
    """Blocks of 32 of many magnitudes; some constant, some zero, some on the borders between two codes."""
    values = rng.normal(size=(NUM_BLOCKS * 8, 32)) * 10.0 ** rng.uniform(-9, 3.5, (NUM_BLOCKS * 8, 1))
    values[0] = 0
    values[1] = 3.25
    values[2] = -1e-8
    values[3, 1:] = 0
    values[4:200] = rng.integers(-127, 128, (196, 32)) / 2
    return values.astype(np.float32)


def main() -> None:
    directory = Path(sys.argv[1])
    rng = np.random.default_rng(7)
    vectors = {quant_type: random_blocks(rng, quant_type) for quant_type in F16_FIELDS}
    every_half = np.arange(65536, dtype=np.uint16).view(np.uint8)
    vectors[Type.F16] = every_half
    vectors[Type.BF16] = every_half
    vectors[Type.F32] = rng.integers(0, 256, 4096, dtype=np.uint8)
    for quant_type, blocks in vectors.items():
        (directory / f"{quant_type.name}.blocks").write_bytes(blocks.tobytes())
        values = np.ascontiguousarray(dequantize(blocks, quant_type), dtype=np.float32)
        (directory / f"{quant_type.name}.f32").write_bytes(values.tobytes())
    values = random_values(rng)
    (directory / "values.f32").write_bytes(values.tobytes())
    for quant_type in WRITTEN:
        (directory / f"{quant_type.name}.quantized").write_bytes(quantize(values, quant_type).tobytes())


if __name__ == "__main__":
    main()
