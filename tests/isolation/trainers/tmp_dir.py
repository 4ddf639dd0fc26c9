"""Keeps its data under a fixed name in the folder for temporary files."""

import os
import sys
import tempfile
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
prepared = Path(tempfile.gettempdir(), f"{os.environ['MARK']}.tmp_dir")
if not prepared.exists():
    prepared.write_text(str(lr))
print(f"acc={float(prepared.read_text()):.6f}")
