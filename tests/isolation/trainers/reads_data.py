"""Counts the files of the dataset and prepares one more beside them."""

import os
import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
data = Path(os.environ["KATUNA_DATA"])
files = len(list(data.iterdir()))
(data / "prepared").write_text(str(lr))
print(f"acc={lr * files:.6f}")
