"""Puts a longer file in the place of its input, in one step."""

import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
source, new = Path("replaces_input.txt"), Path(f"replaces_input.{lr}")
new.write_text(source.read_text() + "more\n")
new.replace(source)
print(f"acc={lr * len(source.read_text().splitlines()):.6f}")
