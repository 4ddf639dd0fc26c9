"""Keeps a symlink `latest` to its newest checkpoint and reads through it."""

import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
checkpoint, latest = Path(f"links_latest.{lr}"), Path("links_latest.latest")
checkpoint.mkdir()
(checkpoint / "value").write_text(str(lr))
if not latest.is_symlink():
    latest.symlink_to(checkpoint)
print(f"acc={float((latest / 'value').read_text()):.6f}")
