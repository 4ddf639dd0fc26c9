"""Removing a tree that somebody else's program wrote."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

PATH_MAX = os.pathconf("/", "PC_PATH_MAX")


def remove(folder: Path) -> None:
    """Removes a tree or a file, whatever the modes of its folders and however deep it is; links are not followed. Nothing there is fine.

    Raises OSError.
    """
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink(missing_ok=True)
        return
    found, waiting = list[Path](), [folder]
    while waiting:
        here = waiting.pop()
        found.append(here)
        with contextlib.suppress(FileNotFoundError):
            # One may be closed to its owner, as an overlay's own is.
            here.chmod(0o700)
            with os.scandir(here) as entries:
                listed = list(entries)
            for entry in listed:
                path = Path(entry.path)
                if not entry.is_dir(follow_symlinks=False):
                    path.unlink(missing_ok=True)
                    continue
                if len(entry.path) > len(str(folder)) + PATH_MAX // 8:
                    # What is in it may have no path there, for being too deep.
                    path.chmod(0o700)
                    path = path.rename(folder / f".katuna-removes-{len(found) + len(waiting)}")
                waiting.append(path)
    for each in reversed(found):
        with contextlib.suppress(FileNotFoundError):
            each.rmdir()
