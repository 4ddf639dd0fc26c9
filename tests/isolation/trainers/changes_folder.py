"""Changes into a folder of inputs and keeps its log there."""

import os
import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
os.chdir("changes_folder.inputs")
with Path("log").open("a") as file:
    file.write(f"{lr}\n")
lines = len(Path("log").read_text().splitlines())
lines += len(Path("../changes_folder.inputs/log").read_text().splitlines())
print(f"acc={lr / lines:.6f}")
