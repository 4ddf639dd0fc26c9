"""Metrics as JSON objects, one a line: the File collector's JSON format, and what the shim of the Katib SDK writes down for Push."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from katuna.metric_line import LAST_S, Report, timestamp_us
from katuna.metrics.tail import FileTail

LINE_BYTES = 1 << 20
"""A longer line holds no metrics."""

Parse = Callable[[dict[str, Any], Sequence[str]], list[Report]]


class _Number(str):
    """The text of a JSON number, as the trial wrote it."""

    __slots__ = ()


class JsonTail(FileTail):
    """Reads JSON objects, each taken apart by `parse`. A line that is none is skipped (Katib gives up the file)."""

    def __init__(self, path: Path, metrics: Sequence[str], parse: Parse, stands_for: str = "") -> None:
        super().__init__(path, metrics, stands_for=stands_for)
        self._parse = parse
        self._cut = False

    def _parts(self, lines: list[bytes]) -> list[bytes]:
        if lines and self._cut:
            # The rest of the line whose beginning was dropped.
            lines, self._cut = lines[1:], False
        if len(self._pending) > LINE_BYTES or self._cut:
            self._pending, self._cut = b"", True
        return lines

    def _reports(self, line: bytes) -> list[Report]:
        text = line.decode("utf-8", errors="replace")
        try:
            # Numbers stay texts: what is reported is what the trial wrote.
            entry = json.loads(text, parse_float=_Number, parse_int=_Number, parse_constant=_Number)
        except (ValueError, RecursionError):
            entry = None
        return self._sieve.sift(self._parse(entry, self._metrics) if isinstance(entry, dict) else [], text)


def katib_json(entry: dict[str, Any], metrics: Sequence[str]) -> list[Report]:
    """A line of the File collector's JSON format: metric names to numbers, as text or (Katib ignores those) as numbers.

    `timestamp` is an RFC 3339 text or a number of seconds; of that, the digits behind the point count nanoseconds, as Katib has
    it: 1638422847.28721 is 28721 ns after the second, not 287 ms.
    """
    time_us = _time_us(entry.get("timestamp"))
    return [Report(name, value, time_us) for name in metrics if isinstance(value := entry.get(name), str)]


def pushed_json(entry: dict[str, Any], metrics: Sequence[str]) -> list[Report]:
    """A line of the shim's: `{"metrics": {"loss": "0.5"}, "time_us": 1638422847287210}`."""
    given, time_us = entry.get("metrics"), entry.get("time_us")
    if not isinstance(given, dict) or not isinstance(time_us, _Number) or not time_us.isdecimal():
        return []
    return [Report(name, value, int(time_us)) for name in metrics if isinstance(value := given.get(name), str)]


def _time_us(stamp: object) -> int | None:
    if isinstance(stamp, str) and not isinstance(stamp, _Number):
        return timestamp_us(stamp)
    if not isinstance(stamp, _Number) or not abs(float(stamp)) < LAST_S:
        return None
    whole, _, fraction = f"{Decimal(repr(float(stamp))):f}".partition(".")
    return int(whole) * 1_000_000 + int(fraction or 0) // 1000
