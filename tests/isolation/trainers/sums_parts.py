"""Lets two children write parts into the working folder and sums all parts there."""

import subprocess
import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
WRITE = "import sys; open(sys.argv[1], 'w').write(sys.argv[2])"
for number in (1, 2):
    part = f"sums_parts.{number}.{lr}.part"
    subprocess.run([sys.executable, "-I", "-S", "-c", WRITE, part, str(number * lr)], check=True)
print(f"acc={sum(float(part.read_text()) for part in Path().glob('sums_parts.*.part')):.6f}")
