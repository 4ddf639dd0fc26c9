"""Deletes the first of its inputs and counts the others."""

import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
inputs = Path("deletes_input.inputs")
min(inputs.iterdir()).unlink()
print(f"acc={lr * len(list(inputs.iterdir())):.6f}")
