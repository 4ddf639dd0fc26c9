"""Appends a line to its log and counts the lines."""

import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
log = Path("appends.log")
with log.open("a") as file:
    file.write(f"{lr}\n")
print(f"acc={lr / len(log.read_text().splitlines()):.6f}")
