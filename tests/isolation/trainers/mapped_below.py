"""Writes below /opt/app of its image, which --map lays into the working folder, and reads by a relative path."""

import os
import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
with Path(os.environ["APP"], "log").open("a") as file:
    file.write(f"{lr}\n")
print(f"acc={lr / len(Path('app/log').read_text().splitlines()):.6f}")
