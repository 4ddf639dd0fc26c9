"""Which reports count, and what came near when none did: material for saying why a metric was not found."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

from katuna.metric_line import Report, is_diverged, number
from katuna.text import printable, shorten

_LOOKED_AT = 512
_SHOWN = 100
_NAMES = 64
_PAIR = re.compile(
    r"(?<![\w./|-])([A-Za-z_][\w./|-]{0,63})[\"']?\s{0,4}[=:]\s{0,4}[\"'(\[]?(?:[+-]?\.?\d|nan|-?inf|none|tensor)", re.IGNORECASE
)

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Sieve:
    """Lets through the reports whose value is a number, nan and infinities included, and keeps texts that look most like the
    objective metric, the first of `metrics`, until a finite value of that was found."""

    def __init__(self, metrics: Sequence[str]) -> None:
        self._objective = metrics[0]
        self._near: _NearLines | None = _NearLines(metrics[0])
        self._warnings: dict[tuple[str, str], str] = {}

    @property
    def nearest(self) -> tuple[str, ...]:
        """Up to three texts; none once the objective was found."""
        return self._near.best() if self._near else ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Doubts about values that were taken, each with the first line that raised it."""
        return tuple(self._warnings.values())

    def warn(self, kind: tuple[str, str], sentence: str, line: str) -> None:
        """Said once of a kind."""
        if kind not in self._warnings:
            self._warnings[kind] = f"{sentence}: {shown(line, _SHOWN)}"

    @property
    def is_looking(self) -> bool:
        """Whether the objective is still to be found."""
        return self._near is not None

    def sift(self, reports: Iterable[Report], line: str = "") -> list[Report]:
        """The reports that count of those found in `line`."""
        kept = [report for report in reports if number(report.value) is not None or is_diverged(report.value)]
        if self._near:
            if any(report.metric == self._objective and not is_diverged(report.value) for report in kept):
                self._near = None
            else:
                self._near.look_at(line[:_LOOKED_AT])
        return kept

    def note(self, name: str, text: str) -> None:
        """A value of another name was seen; `text` shows it."""
        if self._near:
            self._near.note(name, text)


class _NearLines:
    """Lines of the form `name=value` or `name: value`, one a name."""

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
                self.note(match[1], original, match.start())

    def note(self, name: str, text: str, start: int = 0) -> None:
        if name not in self._lines and len(self._lines) < _NAMES:
            self._keep(name, text, start)

    def _keep(self, name: str, text: str, start: int) -> None:
        self._lines[name] = shown(text if start < _SHOWN // 2 else "…" + text[start - 20 :], _SHOWN)

    def best(self) -> tuple[str, ...]:
        wanted = self._objective.lower()
        likeness = {name: SequenceMatcher(None, name.lower(), wanted).ratio() for name in self._lines}
        ranked = sorted(self._lines, key=lambda name: (name != self._objective, -likeness[name]))
        return tuple(dict.fromkeys(self._lines[name] for name in ranked))[:3]


def shown(text: str, width: int) -> str:
    """A trial's text fit for a message: stripped, at most `width` characters, nothing in it that a terminal would obey."""
    return shorten(printable(text.strip()[: width + 1]), width)
