"""Writes a program with its value into the working folder and runs it a moment later."""

import subprocess
import sys
import time
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
program = Path("generates_script_fn.py")
program.write_text(f"print('acc={lr:.6f}')\n")
time.sleep(0.15)
subprocess.run([sys.executable, program], check=True)
