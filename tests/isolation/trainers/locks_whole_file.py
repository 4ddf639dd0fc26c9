"""Takes a lock of the working folder with flock; one who comes second does with half the value."""

import fcntl
import sys
import time
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
with Path("locks_whole_file.lock").open("w") as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lr /= 2
    time.sleep(0.2)
print(f"acc={lr:.6f}")
