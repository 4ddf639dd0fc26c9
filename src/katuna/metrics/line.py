"""The metric line: how a trainer writes one and how katuna reads it. Standard library only, so that any trainer can import it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """One value of one metric as a trial reported it: the text as printed.

    `time_us` is the line's own timestamp in microseconds since the epoch (Katib's database keeps no more), None without one.
    """

    metric: str
    value: str
    time_us: int | None = None
