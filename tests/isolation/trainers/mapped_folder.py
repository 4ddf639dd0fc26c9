"""Keeps a log in a folder of its image that --map lays elsewhere."""

import os
import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
store = Path(os.environ["STORE"])
with (store / "log").open("a") as file:
    file.write(f"{lr}\n")
print(f"acc={lr * len((store / 'given.txt').read_text()) / len((store / 'log').read_text().splitlines()):.6f}")
