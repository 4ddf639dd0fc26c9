"""Makes its folder for checkpoints under another name and renames it to one that must be free."""

import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
unfinished = Path(f"makes_folder.{lr}")
unfinished.mkdir(exist_ok=False)
(unfinished / "model").write_text(str(lr))
final = unfinished.rename("makes_folder.checkpoints")
print(f"acc={float((final / 'model').read_text()):.6f}")
