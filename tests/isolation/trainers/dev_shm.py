"""Appends to a file in /dev/shm and counts its lines."""

import os
import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
path = Path(f"/dev/shm/{os.environ['MARK']}.dev_shm")  # noqa: S108
with path.open("a") as file:
    file.write(f"{lr}\n")
print(f"acc={lr / len(path.read_text().splitlines()):.6f}")
