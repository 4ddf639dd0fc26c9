"""A tree that somebody else's program wrote: looked into, and removed, without following a link."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PATH_MAX = os.pathconf("/", "PC_PATH_MAX")
PLACE = re.compile(r"katuna-[0-9a-f]{32}")
"""What a run has in memory, where a Secret's files may lie: no code, and nobody copies it."""


def open_plain(path: Path, flags: int, mode: int = 0o600, *, follow: bool = False) -> int:
    """A descriptor of a regular file; `follow`: at the end of links too. Raises OSError, ELOOP for a link and EINVAL for what else is
    no regular file; its words say so."""
    try:
        fd = os.open(path, flags | (0 if follow else os.O_NOFOLLOW) | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a link, which katuna does not follow", str(path)) from None
        if error.errno in (errno.ENXIO, errno.EISDIR):
            raise OSError(errno.EINVAL, "it is no regular file", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return fd


def folders(path: Path) -> Iterator[Path]:
    """The folders in a folder in the order of their names; none where it is a link or cannot be read."""
    with contextlib.suppress(OSError):
        if not path.is_symlink():
            with os.scandir(path) as entries:
                names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
            yield from (path / name for name in names)


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


def plain(path: Path) -> BinaryIO:
    """A log to read: no link to elsewhere and no pipe, whatever its trial has made of it. Raises OSError."""
    return os.fdopen(open_plain(path, os.O_RDONLY), "rb")
