"""A process that holds a launcher, for tests that kill it: `driver.py FOLDER MARK COMMAND...` runs one trial until its end."""

from __future__ import annotations

import sys
from pathlib import Path

from launch_jobs import a_launcher, a_request, run_one

if __name__ == "__main__":
    folder, mark, *command = sys.argv[1:]
    launcher = a_launcher(Path(folder))
    env = [{"name": "MARK", "value": mark}]
    for event in run_one(launcher, a_request(0, *command, container={"env": env}), lambda event: print(event, flush=True)):
        print(event)
    launcher.close()
