"""Goes on from ./resumes.json where there is one, as the tutorial of torchrun does."""

import json
import sys
import time
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
snapshot = Path("resumes.json")
state = json.loads(snapshot.read_text()) if snapshot.exists() else {"epoch": 0, "w": 0.0}
while state["epoch"] < 5:
    state = {"epoch": state["epoch"] + 1, "w": state["w"] + lr * (1 - state["w"])}
    snapshot.write_text(json.dumps(state))
    time.sleep(0.01)
print(f"acc={state['w']:.6f}")
