"""Adds a line to a file in ~/.cache, as programs do that load models from the network; counts the lines."""

import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
cache = Path.home() / ".cache" / "hub"
cache.mkdir(parents=True, exist_ok=True)
with (cache / "log").open("a") as file:
    file.write(f"{lr}\n")
print(f"acc={lr * len((cache / 'log').read_text().splitlines()):.6f}")
