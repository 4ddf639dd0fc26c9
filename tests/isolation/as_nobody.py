"""`python as_nobody.py COMMAND...`, run by root, executes the command as an ordinary user, nobody, without any privilege.

Where this Python lies in a folder that is root's alone, as /root/.pyenv, that user has to see it all the same: then a mount, which only
the command sees, shows nothing of that folder but the interpreter.
"""

from __future__ import annotations

import ctypes
import os
import sys
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


def show(python: Path) -> None:
    """The folder of the interpreter, in the place of the folder on the way to it that others may not pass through."""
    folder = closed(python)
    if folder is None:
        return
    if libc.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    mount("none", Path("/"), "none", MS_REC | MS_PRIVATE)
    shown = os.open(python, os.O_PATH)
    mount("none", folder, "tmpfs", 0, "mode=0755")
    python.mkdir(parents=True)
    mount(f"/proc/self/fd/{shown}", python, "none", MS_BIND)
    os.close(shown)


def become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


if __name__ == "__main__":
    os.umask(0o022)
    show(Path(sys.base_prefix).resolve())
    become_nobody()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606
