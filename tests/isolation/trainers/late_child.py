"""Ends before a child in a session of its own, which will not be ended and writes into the working folder."""

import subprocess
import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
CHILD = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(0.2)
open("late_child.late", "w").write("late")
"""
subprocess.Popen(
    [sys.executable, "-I", "-S", "-c", CHILD],
    stdin=subprocess.DEVNULL,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    start_new_session=True,
)
print(f"acc={lr / 2 if Path('late_child.late').exists() else lr:.6f}")
