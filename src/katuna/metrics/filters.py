"""Filters of the user's own (`metricsFormat`), in Go's regular expressions: what Katib accepts and finds, in time linear in the line."""

from __future__ import annotations

import re
from functools import cache
from typing import cast

from katuna.metric_line import DEFAULT_FILTER, KATIB_FILTER


@cache
def compile_filter(text: str) -> re.Pattern[str]:
    """A `metricsFormat` entry as a pattern for `read_metrics`. Raises ValueError, saying why, when it is no regular expression of Go's."""
    if text == KATIB_FILTER:
        return DEFAULT_FILTER
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        pattern = re2.compile(text, options)
    except re2.error as error:
        reason = error.args[0]
        raise ValueError(reason.decode() if isinstance(reason, bytes) else str(reason)) from None
    # re2 offers the part of re.Pattern's interface that is used here.
    return cast("re.Pattern[str]", pattern)


_PIECE = re.compile(
    r"\\Q.*?(?:\\E|\Z)|\\.|\[\^?\]?(?:\[:\^?\w+:\]|\\.|[^\]])*\]|(?P<group>\((?!\?)|\(\?P?<\w+>)|\(|\)", re.DOTALL
)


def group(text: str, number: int) -> str:
    """What stands within the filter's group of this number, counted from 1; "" where there is none."""
    opened: list[tuple[bool, int]] = []
    for piece in _PIECE.finditer(text):
        if piece[0].startswith("("):
            number -= piece["group"] is not None
            opened.append((piece["group"] is not None and number == 0, piece.end()))
        elif piece[0] == ")" and opened:
            wanted, begin = opened.pop()
            if wanted:
                return text[begin : piece.start()]
    return ""


CUT = (("1.5e-05", "1.5"), ("0.45", "0"))
"""Numbers as trainers print them, and what a filter without exponent or fraction makes of them."""


def cuts(text: str) -> tuple[str, str] | None:
    """The first of CUT that a filter's second group does to a number; None for what is no filter."""
    try:
        value = compile_filter(f"^(?:{group(text, 2)})$")
    except ValueError:
        return None
    return next((each for each in CUT if value.search(each[1]) and not value.search(each[0])), None)
