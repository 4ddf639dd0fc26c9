"""Metrics out of a log when nobody has said their names: every `name=value` with a finite number, as a job has no objective; a
`--flag=value` is none."""

from __future__ import annotations

from pathlib import Path

from katuna.metric_line import DEFAULT_FILTER, Report, number, timestamp_us
from katuna.metrics.tail import LogTail

MOST_NAMES = 200
"""A log that is no log of metrics can be full of `a=1`; names after these are left out."""


class AnyNameTail(LogTail):
    """Reads a growing log from byte `offset` on by the StdOut collector's default filter."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        super().__init__(path, ("",), offset=offset)
        self._names: set[str] = set()

    def read(self) -> list[Report]:
        """The log has every value; of each name one is told a look, however fast they come."""
        return list({report.metric: report for report in super().read()}.values())

    def _reports(self, line: bytes) -> list[Report]:
        if b"=" not in line:
            return []
        text = line.decode("utf-8", errors="replace")
        time_us = timestamp_us(text.partition(" ")[0])
        found = ((match[1], match[2]) for match in DEFAULT_FILTER.finditer(text) if match[1] and match[2] and match[1][0] != "-")
        return [Report(name, value, time_us) for name, value in found if number(value) is not None and self._counts(name)]

    def _counts(self, name: str) -> bool:
        if name not in self._names and len(self._names) < MOST_NAMES:
            self._names.add(name)
        return name in self._names
