"""Renames its input when it has read it."""

import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
source, done = Path("renames_input.txt"), Path("renames_input.done")
lines = len((done if done.exists() else source).read_text().splitlines()) - done.exists()
if source.exists():
    source.rename(done)
print(f"acc={lr * lines:.6f}")
