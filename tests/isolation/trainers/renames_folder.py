"""Renames its folder of inputs in one step, which a layer of an ordinary user's cannot do: as in many a container, EXDEV."""

import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
done = Path("renames_folder.inputs").rename("renames_folder.done")
print(f"acc={lr * len(list(done.iterdir())):.6f}")
