"""Unpacks an .xz file.

usage: unpack_xz.py XZ OUT
"""

import lzma
import sys
from pathlib import Path

Path(sys.argv[2]).write_bytes(lzma.decompress(Path(sys.argv[1]).read_bytes()))
