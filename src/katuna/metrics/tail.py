"""A trial's growing files: text read as Katib's TEXT parser reads it: metric reports out of bytes nobody has checked, in bounded memory.

A very long line is read in pieces, cut at white space where there is some: nothing of it is skipped, only a timestamp at its
beginning counts for the first piece alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from katuna.metric_line import DEFAULT_FILTER, Report, timestamp_us
from katuna.metrics.follow import Follower
from katuna.metrics.near import Sieve
from katuna.metrics.reading import read_line

PIECE_BYTES = 8192


class FileTail:
    """A `MetricSource` (metrics/collect.py) over the lines of a growing file. `metrics` names the objective first.

    A file that does not exist yet is empty. `stands_for` is the path that a trial's container would know it by; without one it is a log
    of ours, which is behind no link.
    """

    def __init__(self, path: Path, metrics: Sequence[str], offset: int = 0, stands_for: str = "") -> None:
        self._file = Follower(path, offset, follow=bool(stands_for))
        self._metrics = tuple(metrics)
        self._sieve = Sieve(self._metrics)
        self._pending = b""
        self._stands_for = stands_for

    @property
    def at_end(self) -> bool:
        return self._file.at_end

    def read(self) -> list[Report]:
        *lines, self._pending = (self._pending + self._file.read()).split(b"\n")
        return [report for line in self._parts(lines) for report in self._reports(line)]

    def hurry(self) -> None:
        """A file waits."""

    def finish(self) -> list[Report]:
        last, self._pending = self._pending, b""
        return self._reports(last)

    def close(self) -> None:
        self._file.close()

    @property
    def nearest(self) -> tuple[str, ...]:
        if self._file.found or not self._stands_for:
            return self._sieve.nearest
        literally = (
            f"; {self._stands_for} itself is there: is it written in the trainer?" if Path(self._stands_for).exists() else ""
        )
        return (f"nothing was written to {self._file.path}, which stands for {self._stands_for}{literally}",)

    @property
    def warnings(self) -> tuple[str, ...]:
        return self._sieve.warnings

    def _parts(self, lines: list[bytes]) -> list[bytes]:
        """What is to be read now: whole lines, and where `_pending` grows too long, something of that."""
        raise NotImplementedError

    def _reports(self, line: bytes) -> list[Report]:
        raise NotImplementedError


class LogTail(FileTail):
    """Reads text from byte `offset` on; without `filters` by Katib's default one."""

    def __init__(
        self,
        path: Path,
        metrics: Sequence[str],
        filters: Sequence[re.Pattern[str]] = (),
        offset: int = 0,
        stands_for: str = "",
    ) -> None:
        super().__init__(path, metrics, offset, stands_for)
        self._filters = tuple(filters) or (DEFAULT_FILTER,)

    def _parts(self, lines: list[bytes]) -> list[bytes]:
        *pieces, self._pending = _pieces(self._pending)
        return [piece for line in lines for piece in _pieces(line)] + pieces

    def _reports(self, line: bytes) -> list[Report]:
        text = line.decode("utf-8", errors="replace")
        time_us = timestamp_us(text.partition(" ")[0])
        reading = read_line(text, self._metrics, self._filters)
        for kind, sentence in reading.doubts():
            self._sieve.warn(kind, sentence, text)
        return self._sieve.sift((Report(each.name, each.value, time_us) for each in reading.found), text)


def _pieces(line: bytes) -> Iterator[bytes]:
    begin = 0
    while len(line) - begin > PIECE_BYTES:
        middle, end = begin + PIECE_BYTES // 2, begin + PIECE_BYTES
        cut = max(line.rfind(space, middle, end) for space in (b" ", b"\r", b"\t"))
        cut = end if cut < 0 else cut + 1
        yield line[begin:cut]
        begin = cut
    yield line[begin:]
