"""Writes to its input through a hard link."""

import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
source, own = Path("links_hard.txt"), Path(f"links_hard.{lr}")
own.hardlink_to(source)
with own.open("a") as file:
    file.write("more\n")
print(f"acc={lr * len(source.read_text().splitlines()):.6f}")
