"""Lines that scroll by and, on a terminal, one below them that is written anew: how it stands."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from typing import Any

import click

from katuna.cli.output import heard, nobody_reads
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


class Stdout(io.TextIOBase):
    """Standard output for a library that draws on it; it survives what `heard` survives."""

    def __init__(self) -> None:
        # The library may put something of its own in the place of sys.stdout.
        self._file = sys.stdout

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._file.encoding

    def write(self, text: str) -> int:
        self._try(lambda: self._file.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._file.flush)

    def isatty(self) -> bool:
        return self._file.isatty()

    def fileno(self) -> int:
        return self._file.fileno()

    def _try(self, output: Callable[[], object]) -> None:
        try:
            output()
        except OSError as error:
            nobody_reads(error, self._file.fileno())
