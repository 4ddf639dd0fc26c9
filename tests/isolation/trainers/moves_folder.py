"""Moves its folder of inputs with shutil.move and counts what has arrived."""

import shutil
import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
shutil.move("moves_folder.inputs", "moves_folder.used")
print(f"acc={lr * len(list(Path('moves_folder.used').iterdir())):.6f}")
