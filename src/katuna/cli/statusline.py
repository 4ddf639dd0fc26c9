"""Lines that scroll by and, on a terminal, one below them that is written anew: how it stands."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterable
from typing import Any

import click

from katuna.text import shorten

_ERASE = "\r\x1b[K"


class StatusLine:
    """Writes to stdout, as long as somebody reads there and there is room; to end for want of that is not called for."""

    def __init__(self) -> None:
        drawable = os.environ.get("TERM", "").lower() not in ("dumb", "unknown")
        self._is_terminal = sys.stdout.isatty() and drawable
        self._colours = self._is_terminal and not os.environ.get("NO_COLOR")
        self._status = ""
        self._read = True

    def styled(self, text: str, **style: Any) -> str:
        """`click.style`, where there are colours."""
        return click.style(text, **style) if self._colours else text

    def write(self, lines: Iterable[str], status: str = "") -> None:
        """Whole lines, all in one write: none is torn. Then the status, cut to the window, on a terminal alone."""
        shown = shorten(status, max(1, shutil.get_terminal_size().columns - 1)) if self._is_terminal else ""
        text = "".join(f"{line}\n" for line in lines)
        if self._read and (text or shown != self._status):
            erase, self._status = _ERASE if self._status else "", shown
            self._read = heard(erase + text + shown, color=True)


def heard(text: str, *, color: bool | None = None) -> bool:
    """Writes to stdout at once. False where that fails: what comes next is written to nobody, which is said on stderr, but for a
    reader who has left (`| head`)."""
    try:
        click.echo(text, nl=False, color=color)
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            with contextlib.suppress(OSError):
                click.echo(f"output: {error.strerror}; nothing more is shown, the run goes on and its folder has all", err=True)
        return False
    return True
