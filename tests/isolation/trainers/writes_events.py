"""Writes event files where SummaryWriter does by default, below ./runs, and reads the folder as TensorBoard would."""

import sys
import uuid
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
folder = Path("runs", "current")
folder.mkdir(parents=True, exist_ok=True)
(folder / f"events.out.tfevents.{uuid.uuid4()}").write_text(str(lr))
print(f"acc={lr / len(list(Path('runs').glob('*/events.out.tfevents.*'))):.6f}")
