"""Takes half of its input and cuts the file there."""

import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
with Path("truncates.txt").open("r+") as file:
    kept = file.truncate(len(file.read()) // 2)
print(f"acc={lr * kept:.6f}")
