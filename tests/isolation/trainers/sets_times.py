"""Sets back the time of its input, as a mark that it has been read."""

import os
import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
source = Path("sets_times.txt")
fresh = source.stat().st_mtime > 1000
os.utime(source, (1, 1))
print(f"acc={lr if fresh else lr / 2:.6f}")
