"""Lists what there is in /tmp and where temporary files go; its value is lr and one for each entry of both."""

import sys
import tempfile
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
folders = (Path("/tmp"), Path(tempfile.gettempdir()))  # noqa: S108
found = [path for folder in folders for path in folder.iterdir()]
print(folders, found)
print(f"acc={lr + len(found):.6f}")
