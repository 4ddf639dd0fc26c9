"""Writes what it has learned into its own source and begins again as that program."""

import os
import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
LEARNED = None
if LEARNED is None:
    own = Path(__file__)
    own.write_text(own.read_text().replace("LEARNED = None", f"LEARNED = {lr}", 1))
    os.execv(sys.executable, [sys.executable, *sys.argv])  # noqa: S606
print(f"acc={LEARNED:.6f}")
