"""Keeps its data under a name that is written down: /tmp/NAME."""

import os
import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
prepared = Path(f"/tmp/{os.environ['MARK']}.tmp_name")  # noqa: S108
if not prepared.exists():
    prepared.write_text(str(lr))
print(f"acc={float(prepared.read_text()):.6f}")
