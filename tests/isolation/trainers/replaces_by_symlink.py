"""Puts a symlink in the place of its input and reads through it."""

import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
source, own = Path("replaces_by_symlink.txt"), Path("replaces_by_symlink.own")
if not source.is_symlink():
    own.write_text(str(lr))
    source.unlink()
    source.symlink_to(own)
print(f"acc={float(source.read_text()):.6f}")
