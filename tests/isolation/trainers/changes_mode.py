"""Forbids others to read its input when it has read it."""

import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
source = Path("changes_mode.txt")
readable = source.stat().st_mode & 0o004
source.chmod(0o600)
print(f"acc={lr if readable else lr / 2:.6f}")
