"""Keeps its state beside itself, by the absolute path of its own file."""

import sys
import time
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
state = Path(__file__).resolve().parent / "own_folder.state"
if not state.exists():
    state.write_text(str(lr))
time.sleep(0.05)
print(f"acc={float(state.read_text()):.6f}")
