"""Leaves a model in the folder that katuna gives each trial, and a file in the working folder."""

import os
import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
Path(os.environ["KATUNA_TRIAL_DIR"], "model").write_text(str(lr))
Path("fills_trial_folder.out").write_text(str(lr))
print(f"acc={lr:.6f}")
