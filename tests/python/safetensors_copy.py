"""Reads a safetensors file with the safetensors package and writes its tensors to another.

usage: safetensors_copy.py IN OUT   (OUT gets IN's metadata)
"""

import sys

from safetensors import safe_open
from safetensors.numpy import save_file


def main() -> None:
    with safe_open(sys.argv[1], framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        save_file(tensors, sys.argv[2], metadata=file.metadata())


if __name__ == "__main__":
    main()
