"""Writes a small GGUF file with every kind of metadata and several tensor types.

usage: gguf_sample.py FILE
"""

import sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, GGUFValueType, quantize


def main() -> None:
    writer = GGUFWriter(sys.argv[1], "llama")
    writer.add_uint8("kind.u8", 200)
    writer.add_int8("kind.i8", -100)
    writer.add_uint16("kind.u16", 60000)
    writer.add_int16("kind.i16", -30000)
    writer.add_uint32("kind.u32", 4_000_000_000)
    writer.add_int32("kind.i32", -2_000_000_000)
    writer.add_uint64("kind.u64", 2**64 - 1)
    writer.add_int64("kind.i64", -(2**63))
    writer.add_float32("kind.f32", 0.5)
    writer.add_float64("kind.f64", 1e300)
    writer.add_bool("kind.bool", True)
    writer.add_string("kind.string", "Füße 😀")
    writer.add_array("kind.strings", ["a", "", "Ġthe"])
    writer.add_array("kind.ints", [-1, 0, 7])
    writer.add_array("kind.floats", [0.25, -2.0])
    writer.add_array("kind.bools", [True, False, True])
    writer.add_key_value("kind.bytes", [1, 2, 255], GGUFValueType.ARRAY, GGUFValueType.UINT8)

    matrix = np.arange(3 * 64, dtype=np.float32).reshape(3, 64)
    writer.add_tensor("matrix", matrix)
    writer.add_tensor("half", matrix.astype(np.float16))
    packed = quantize(matrix, GGMLQuantizationType.Q8_0)
    writer.add_tensor("packed", packed, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.add_tensor("vector", np.ones(5, dtype=np.float32))

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
