"""Makes a pid file that must be new, and leaves it behind."""

import os
import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
try:
    with Path("leaves_pid_file.pid").open("x") as file:
        file.write(str(os.getpid()))
except FileExistsError:
    lr /= 2
print(f"acc={lr:.6f}")
