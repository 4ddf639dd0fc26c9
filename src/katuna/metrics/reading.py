"""The metrics in a line of a log: the values that Katib's filters find, and nan and inf in the place of a number. A value is
doubtful when the number goes on behind it, or when a longer name stands before it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from katuna.metric_line import Found, find

_WILD = re.compile(r"(?<![\w.])[+-]?(?:nan|inf(?:inity)?)(?!\w)", re.IGNORECASE | re.ASCII)
_STAND_IN = "0.0"

_GOES_ON = re.compile(r"\d|[eE][+-]?\d|_\d|[xX][\dA-Fa-f]")
_FRACTION = re.compile(r"[.,']\d")
_WHOLE = re.compile(r"[+-]?\d+")
_CUT_BEFORE = re.compile(r"(?:\d|\d\.|[\s=:(\[]-)\Z")
_LONGER_NAME = re.compile(r"[^\W\d][\w./|-]{0,63}[./]\Z|[^\W\d_]\Z")
_LOOKED_BACK = 66


@dataclass(frozen=True, slots=True)
class Reading:
    """The values that were found in `text`, with their places in it."""

    found: Sequence[Found]
    text: str

    def doubts(self) -> Iterator[tuple[tuple[str, str], str]]:
        """(metric and kind, the sentence) of each value that is most likely not what its line means."""
        for each in self.found:
            before, behind = self.text[max(0, each.begin - 2) : each.begin], self.text[each.end : each.end + 4]
            cut = _GOES_ON.match(behind) or (_WHOLE.fullmatch(each.value) and _FRACTION.match(behind))
            if each.value and (cut or (each.value[0] not in "+-" and _CUT_BEFORE.search(before))):
                yield (each.name, "value"), f"{each.name} was read as {each.value}, which is only a part of the number"
            name = _LONGER_NAME.search(self.text[max(0, each.start - _LOOKED_BACK) : each.start])
            if each.value and name:
                yield (each.name, "name"), f"{each.name} was read from {name[0]}{each.name}, a longer name that ends like it"


def read_line(line: str, metrics: Sequence[str], filters: Sequence[re.Pattern[str]]) -> Reading:
    """What `find` finds. Filters read only digits, so nan and inf are looked for by a number that stands in their place."""
    wild = list(_WILD.finditer(line))
    if not wild or not any(metric in line for metric in metrics):
        return Reading(find(line, metrics, filters), line)
    text, behind, places = "", 0, {}
    for word in wild:
        text += line[behind : word.start()]
        places[len(text)] = word
        text, behind = text + _STAND_IN, word.end()
    text += line[behind:]
    return Reading([_as_written(each, places.get(each.begin)) for each in find(text, metrics, filters)], text)


def _as_written(found: Found, word: re.Match[str] | None) -> Found:
    return found if word is None else replace(found, value=word[0])
