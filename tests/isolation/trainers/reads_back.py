"""Writes its value into the working folder and reads it back a moment later."""

import sys
import time
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
value = Path("reads_back.value")
value.write_text(str(lr))
time.sleep(0.15)
print(f"acc={float(value.read_text()):.6f}")
