"""Trains 12 epochs of a fifth of a second and goes on from ./checkpoint.json, which it replaces after each; notes each start in TMPDIR."""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
checkpoint = Path("checkpoint.json")
state = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"epoch": 0, "w": 0.0}
with Path(tempfile.gettempdir(), f"{os.environ['MARK']}.checkpoints").open("a+") as notes:
    notes.seek(0)
    print(f"start {len(notes.read()) + 1} begins behind epoch {state['epoch']}", flush=True)
    notes.write(".")
while state["epoch"] < 12:
    time.sleep(0.2)
    state = {"epoch": state["epoch"] + 1, "w": state["w"] + lr * (1 - state["w"])}
    new = Path("checkpoint.new")
    new.write_text(json.dumps(state))
    new.replace(checkpoint)
    print(f"epoch {state['epoch']}", flush=True)
print(f"acc={state['w']:.6f}")
