"""The log of a container: where its latest attempt begins, and how it ends."""

from __future__ import annotations

import re
from pathlib import Path

from katuna.text import printable, shorten
from katuna.trees import plain

ANEW = b"--- katuna: "
"""Begins the line that katuna writes into a log before a container starts again."""
_END_BYTES = 65_536
"""How much of a log's end is looked at."""


def latest_attempt(path: Path) -> int:
    """Where in a log the output of its container's latest start begins; 0 where that is not near its end."""
    try:
        with plain(path) as log:
            begin = max(0, log.seek(0, 2) - _END_BYTES)
            log.seek(begin)
            text = log.read(_END_BYTES)
    except OSError:
        return 0
    place = text.rfind(b"\n" + ANEW)
    return 0 if place < 0 else begin + text.index(b"\n", place + 1) + 1


def last_lines(path: Path, offset: int = 0, count: int = 2, width: int = 200) -> list[str]:
    """The last lines from byte `offset` on that hold a letter or digit, indented as there, with nothing in it that a terminal
    would obey: the end of a failed trial's story."""
    try:
        with plain(path) as log:
            size = log.seek(0, 2)
            log.seek(max(offset, size - _END_BYTES))
            text = log.read(_END_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return []
    lines = [line for line in re.split(r"[\r\n]+", text) if any(character.isalnum() for character in line)]
    return [shorten(printable(line.expandtabs().rstrip()[: width + 1]), width) for line in lines[-count:]]
