"""`python as_nobody.py COMMAND...`, run by root, executes the command as an ordinary user, nobody, without any privilege.

Where this Python, its environment or katuna's sources lie in a folder that is root's alone, as /root/.pyenv, that user has to see them
all the same: then a mount, which only the command sees, shows nothing else of that folder.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable
from pathlib import Path

NOBODY = 65534
CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 0x1000, 0x4000, 0x40000
libc = ctypes.CDLL(None, use_errno=True)


def closed(path: Path) -> Path | None:
    """The first folder on the way to `path` that others may not pass through."""
    return next((each for each in reversed(path.parents) if not each.stat().st_mode & 0o001), None)


def mount(source: str, target: Path, kind: str, flags: int, options: str = "") -> None:
    if libc.mount(source.encode(), os.fsencode(target), kind.encode(), flags, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), f"mount {target}")


def show(places: Iterable[Path]) -> None:
    """The places, each in the stead of the folder on the way to it that others may not pass through."""
    shut = {place: folder for place in places if (folder := closed(place))}
    if not shut:
        return
    if libc.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    mount("none", Path("/"), "none", MS_REC | MS_PRIVATE)
    shown = {place: os.open(place, os.O_PATH) for place in shut}
    for folder in set(shut.values()):
        mount("none", folder, "tmpfs", 0, "mode=0755")
    for place, opened in shown.items():
        place.mkdir(parents=True, exist_ok=True)
        mount(f"/proc/self/fd/{opened}", place, "none", MS_BIND)
        os.close(opened)


def installation() -> list[Path]:
    """This interpreter, its environment, and katuna's sources, which the environment names where katuna is installed to be edited."""
    places = {Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), Path(__file__).resolve().parents[2]}
    return [place for place in places if not any(place != each and place.is_relative_to(each) for each in places)]


def become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


if __name__ == "__main__":
    os.umask(0o022)
    show(installation())
    become_nobody()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606
