"""Removes its folder of inputs and makes it anew with one file."""

import shutil
import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
inputs = Path("removes_tree.inputs")
before = len(list(inputs.iterdir()))
shutil.rmtree(inputs)
inputs.mkdir()
(inputs / "only.txt").write_text(str(lr))
print(f"acc={lr * before + len(list(inputs.iterdir())):.6f}")
