"""What a line of a log says of the metrics: as Katib's filters find it, and nan or inf where a filter would have found a number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from katuna.metrics.line import Found, find

_WILD = re.compile(r"(?<![\w.])[+-]?(?:nan|inf(?:inity)?)(?!\w)", re.IGNORECASE | re.ASCII)
_STAND_IN = "0.0"


def found_in(line: str, metrics: Sequence[str], filters: Sequence[re.Pattern[str]]) -> list[Found]:
    """What `find` finds. Filters read only digits, so nan and inf are looked for by a number that stands in their place."""
    wild = list(_WILD.finditer(line))
    if not wild or not any(metric in line for metric in metrics):
        return find(line, metrics, filters)
    text, behind, places = "", 0, {}
    for word in wild:
        text += line[behind : word.start()]
        places[len(text)] = word
        text, behind = text + _STAND_IN, word.end()
    return [_as_written(each, places.get(each.begin)) for each in find(text + line[behind:], metrics, filters)]


def _as_written(found: Found, word: re.Match[str] | None) -> Found:
    return found if word is None else replace(found, value=word[0])
