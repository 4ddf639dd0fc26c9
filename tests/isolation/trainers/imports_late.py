"""Says which edition of itself runs, and in a loop, which edition of a module and of a setting it finds."""

import importlib
import sys
import time
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
EDITION = "old"
print(f"script: {EDITION}", flush=True)
for _ in range(10):
    time.sleep(0.05)
    sys.modules.pop("imports_late_helper", None)
    importlib.invalidate_caches()
    print(f"module: {importlib.import_module('imports_late_helper').EDITION}", flush=True)
    print(f"again: {Path(__file__).read_text().partition('EDITION = ')[2][1:4]}", flush=True)
print(f"acc={lr:.6f}")
