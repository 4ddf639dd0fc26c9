"""The time of this machine, which nobody sets: durations and limits are of time that passed."""

from __future__ import annotations

import time

_SINCE_START = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Counts while the machine sleeps too; macOS has none such."""
_MOST_LATE_S = 10.0


class SystemClock:
    """Wall time as it was when the clock was made, and from there what has passed: setting the machine's clock changes no duration."""

    def __init__(self) -> None:
        self._offset = time.time() - time.clock_gettime(_SINCE_START)

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._offset + time.clock_gettime(_SINCE_START)

    def elapsed(self) -> float:
        """Seconds from some moment on, without those in which the machine slept: what a time limit counts."""
        return time.monotonic()


def on_clock(now: float, wall: float) -> float:
    """The moment on a clock whose time is `now` of what another process wrote down at wall time `wall` a moment ago."""
    return now - min(max(0.0, time.time() - wall), _MOST_LATE_S)
