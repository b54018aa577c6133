#!/usr/bin/env python3
"""Writes a GGUF file once more with its matrices in another format, so that two programs can be timed on the same weights.

usage: bench/requantize.py MODEL.gguf q4_0|q8_0|bf16 OUT.gguf

Matrices are expanded to f32 and rounded to the format; with q4_0 the embedding becomes q8_0, as llama-quantize has it.
Vectors and metadata stay as they are. What a file of 4 bits lost is not regained: such a file is for timing, not for use.
"""

import argparse
import os
import pathlib

import gguf
import numpy as np

# The value of general.file_type, which some programs print.
FILE_TYPES = {
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
}


def target_of(tensor, name):
    """The format of a tensor in the new file."""
    if len(tensor.shape) < 2:
        return tensor.tensor_type
    if name == "q4_0" and tensor.name in ("token_embd.weight", "output.weight"):
        name = "q8_0"
    return gguf.GGMLQuantizationType[name.upper()]


def copy_metadata(reader, writer, file_type):
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == gguf.Keys.General.ARCHITECTURE:
            continue
        value = file_type if field.name == gguf.Keys.General.FILE_TYPE else field.contents()
        sub_type = field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(field.name, value, field.types[0], sub_type)


def requantize(source, name, out):
    """Writes beside `out` and renames, so that no half a file stands under its name."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields[gguf.Keys.General.ARCHITECTURE].contents()
    beside = out.with_name(f"{out.name}.{os.getpid()}")
    writer = gguf.GGUFWriter(beside, architecture)
    copy_metadata(reader, writer, FILE_TYPES[name])
    for tensor in reader.tensors:
        target = target_of(tensor, name)
        data = tensor.data
        if target != tensor.tensor_type:
            values = gguf.quants.dequantize(data, tensor.tensor_type).astype(np.float32)
            data = gguf.quants.quantize(values, target)
        writer.add_tensor(tensor.name, data, raw_dtype=target)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    beside.replace(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("format", choices=FILE_TYPES)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    requantize(args.model, args.format, args.out)


if __name__ == "__main__":
    main()
