"""Following a trial's log while it grows: metric reports out of bytes nobody has checked, in bounded memory.

A very long line is read in pieces, cut at white space where there is some: nothing of it is skipped, only a timestamp at its
beginning counts for the first piece alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from pathlib import Path

from katuna.metrics.line import DEFAULT_FILTER, Report, read_metrics
from katuna.text import printable, shorten
from katuna.trials import number

PIECE_BYTES = 8192
READ_BYTES = 1 << 20
"""At most this much of the log is taken in at one `read`, so that a chatty trial does not hold up the others."""

_LOOKED_AT = 512
_SHOWN = 100
_NAMES = 64
_PAIR = re.compile(
    r"(?<![\w./|-])([A-Za-z_][\w./|-]{0,63})[\"']?\s{0,4}[=:]\s{0,4}[\"'(\[]?(?:[+-]?\.?\d|nan|-?inf|none|tensor)", re.IGNORECASE
)

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class LogTail:
    """Reads a growing log from byte `offset` on. `metrics` names the objective first, then the additional metrics.

    A log that does not exist yet is empty. Reports whose value is no finite number are dropped (katib.md 10, B11).
    """

    def __init__(self, path: Path, metrics: Sequence[str], filters: Sequence[re.Pattern[str]] = (), offset: int = 0) -> None:
        self._path = path
        self._metrics = tuple(metrics)
        self._filters = tuple(filters) or (DEFAULT_FILTER,)
        self._offset = offset
        self._pending = b""
        self._near: _NearLines | None = _NearLines(self._metrics[0])
        self.at_end = False

    def read(self) -> list[Report]:
        """The reports in what was written since the last call, up to READ_BYTES of it; `at_end` says whether that was all."""
        try:
            with self._path.open("rb") as log:
                log.seek(self._offset)
                data = log.read(READ_BYTES)
        except FileNotFoundError:
            data = b""
        self._offset += len(data)
        self.at_end = len(data) < READ_BYTES
        *lines, self._pending = (self._pending + data).split(b"\n")
        reports = [report for line in lines for piece in _pieces(line) for report in self._reports(piece)]
        *pieces, self._pending = _pieces(self._pending)
        return reports + [report for piece in pieces for report in self._reports(piece)]

    def finish(self) -> list[Report]:
        """The reports in a last line without an end. Call it after `read` has come to the end."""
        last, self._pending = self._pending, b""
        return self._reports(last)

    @property
    def nearest(self) -> tuple[str, ...]:
        """Up to three log lines that look most like the objective metric; empty once it was found."""
        return self._near.best() if self._near else ()

    def _reports(self, piece: bytes) -> list[Report]:
        text = piece.decode("utf-8", errors="replace")
        reports = [r for r in read_metrics(text, self._metrics, self._filters) if number(r.value) is not None]
        if self._near:
            if any(report.metric == self._metrics[0] for report in reports):
                self._near = None
            else:
                self._near.look_at(text[:_LOOKED_AT])
        return reports


def _pieces(line: bytes) -> Iterator[bytes]:
    begin = 0
    while len(line) - begin > PIECE_BYTES:
        middle, end = begin + PIECE_BYTES // 2, begin + PIECE_BYTES
        cut = max(line.rfind(space, middle, end) for space in (b" ", b"\r", b"\t"))
        cut = end if cut < 0 else cut + 1
        yield line[begin:cut]
        begin = cut
    yield line[begin:]


class _NearLines:
    """Log lines of the form `name=value` or `name: value`, one a name: material for saying why a metric was not found."""

    def __init__(self, objective: str) -> None:
        self._objective = objective
        self._own = re.compile(rf"(?<!\w){re.escape(objective)}[\"']?\s{{0,4}}[=:]")
        self._lines: dict[str, str] = {}

    def look_at(self, text: str) -> None:
        # Colours hide a name from filters too; only here they shall not.
        original, text = text, _COLOUR.sub(lambda match: " " * len(match[0]), text)
        if self._objective in text and self._objective not in self._lines and (own := self._own.search(text)):
            self._keep(self._objective, original, own.start())
        if len(self._lines) < _NAMES:
            for match in _PAIR.finditer(text):
                if match[1] not in self._lines and len(self._lines) < _NAMES:
                    self._keep(match[1], original, match.start())

    def _keep(self, name: str, text: str, start: int) -> None:
        self._lines[name] = shown(text if start < _SHOWN // 2 else "…" + text[start - 20 :], _SHOWN)

    def best(self) -> tuple[str, ...]:
        wanted = self._objective.lower()
        likeness = {name: SequenceMatcher(None, name.lower(), wanted).ratio() for name in self._lines}
        ranked = sorted(self._lines, key=lambda name: (name != self._objective, -likeness[name]))
        return tuple(dict.fromkeys(self._lines[name] for name in ranked))[:3]


def last_lines(path: Path, offset: int = 0, count: int = 2, width: int = 200) -> list[str]:
    """The last lines from byte `offset` on that hold a letter or digit, each as `shown` gives it: the end of a failed trial's story."""
    try:
        with path.open("rb") as log:
            size = log.seek(0, 2)
            log.seek(max(offset, size - 8 * PIECE_BYTES))
            text = log.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    lines = [line for line in re.split(r"[\r\n]+", text) if any(character.isalnum() for character in line)]
    return [shown(line, width) for line in lines[-count:]]


def shown(text: str, width: int) -> str:
    """A trial's text fit for a message: stripped, at most `width` characters, nothing in it that a terminal would obey."""
    return shorten(printable(text.strip()[: width + 1]), width)
