"""Counts up in a file that it maps into its memory."""

import mmap
import struct
import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
path = Path("maps_memory.bin")
if not path.exists():
    path.write_bytes(bytes(8))
with path.open("r+b") as file, mmap.mmap(file.fileno(), 8) as memory:
    (count,) = struct.unpack_from("q", memory)
    struct.pack_into("q", memory, 0, count + 1)
print(f"acc={lr / struct.unpack('q', path.read_bytes())[0]:.6f}")
