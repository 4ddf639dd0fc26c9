"""The metric line: how a trainer writes one and how katuna reads it. Standard library only, so that any trainer can import it.

A line is `name=value` pairs between spaces, the form that Katib's own StdOut collector reads without any setting:

    2026-11-23T10:00:01.250000Z epoch=3 loss=0.25 accuracy=0.9375
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import SupportsFloat, TextIO

KATIB_FILTER = r"([\w|-]+)\s*=\s*([+-]?\d*(\.\d+)?([Ee][+-]?\d+)?)"
"""Katib's default `metricsFormat`; `\\w` is ASCII there."""

DEFAULT_FILTER = re.compile(r"([\w|-]++)\s*+=\s*+([+-]?\d*(\.\d+)?([Ee][+-]?\d+)?)|[\w|-]++", re.ASCII)
"""Finds what KATIB_FILTER finds, in linear time: a word without `=` is skipped whole (the second branch, without groups)."""

LAST_S = 253_402_300_800
"""The end of the year 9999, beyond which there are no timestamps."""

_NAME = re.compile(r"[\w|-]+", re.ASCII)
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:[.,](\d+))?(Z|[+-]\d\d:\d\d)", re.ASCII)
_FINITE = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WILD = re.compile(r"[+-]?(nan|inf(inity)?)", re.ASCII | re.IGNORECASE)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Found:
    """A metric that a filter found in a line: `begin` and `end` are where its value stands, `start` where its name does."""

    name: str
    value: str
    start: int
    begin: int
    end: int


@dataclass(frozen=True)
class Report:
    """One value of one metric as a trial reported it: the text as printed.

    `time_us` is the line's own timestamp in microseconds since the epoch (Katib's database keeps no more), None without one.
    """

    metric: str
    value: str
    time_us: int | None = None


def report(values: Mapping[str, SupportsFloat], *, time: float | None = None, file: TextIO | None = None) -> None:
    """Print one metric line to `file` (standard output) and flush it; `time` (seconds since the epoch) goes in front as a timestamp.

    Raises ValueError, and prints nothing, when Katib's default filter would not read every name and value back.
    """
    stream = sys.stdout if file is None else file
    # One write: the lines of processes that share a log do not mix.
    stream.write(metric_line(values, time=time) + "\n")
    stream.flush()


def metric_line(values: Mapping[str, SupportsFloat], *, time: float | None = None) -> str:
    """The line that `report` prints, without its end. Raises ValueError as `report` does."""
    if not values:
        raise ValueError("a metric line needs at least one name and value")
    stamp = "" if time is None else f"{datetime.fromtimestamp(time, UTC):%Y-%m-%dT%H:%M:%S.%fZ} "
    return stamp + " ".join(f"{_checked(name)}={_number(name, value)}" for name, value in values.items())


def read_metrics(line: str, metrics: Sequence[str], filters: Iterable[re.Pattern[str]] = (DEFAULT_FILTER,)) -> list[Report]:
    """All reports in a line, as Katib's TEXT parser finds them (katib.md 4.2): any text as value, the empty one too."""
    time_us = timestamp_us(line.partition(" ")[0])
    return [Report(each.name, each.value, time_us) for each in find(line, metrics, filters)]


def find(line: str, metrics: Sequence[str], filters: Iterable[re.Pattern[str]] = (DEFAULT_FILTER,)) -> list[Found]:
    """What `read_metrics` reports, with its places."""
    if not any(metric in line for metric in metrics):
        return []
    found = []
    for pattern in filters:
        if pattern.groups < 2:
            continue
        for match in pattern.finditer(line):
            name = (match[1] or "").strip()
            if name in metrics:
                found.append(Found(name, (match[2] or "").strip(), match.start(1), *match.span(2)))
    return found


def number(text: str) -> float | None:
    """A finite float, or None: text that Katib would not parse, NaN and infinities never become observations.

    Stricter than `float`, which takes `1_000` and digits of other scripts.
    """
    if not _FINITE.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def is_diverged(text: str) -> bool:
    """Whether it is the text of nan or an infinity, as of a training that diverged; 1e400 is one too, thousands of digits are noise."""
    return len(text) < 400 and bool(_WILD.fullmatch(text) or _FINITE.fullmatch(text)) and number(text) is None


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"metric name {name!r}: Katib's default filter reads only ASCII letters, digits, '_', '-' and '|'")
    return name


def _number(name: str, value: SupportsFloat) -> str:
    """The shortest text that reads back as the same number."""
    try:
        finite = float(value)
    except OverflowError:
        finite = math.inf
    if not math.isfinite(finite):
        raise ValueError(f"metric {name!r} is {finite}: only finite numbers can be reported (Katib would store an empty value)")
    return str(int(value)) if isinstance(value, int) else repr(finite)


def timestamp_us(text: str) -> int | None:
    """Microseconds since the epoch of an RFC 3339 text, cut off as Katib's database does; None when it is none."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        return None
    try:
        moment = datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00"))
    except ValueError:
        return None
    return (moment - _EPOCH) // timedelta(microseconds=1) + int((match[2] or "").ljust(6, "0")[:6])
