"""Filters of the user's own (`metricsFormat`), in Go's regular expressions: what Katib accepts and finds, in time linear in the line."""

from __future__ import annotations

import re
from functools import cache
from typing import cast

from katuna.metrics.line import DEFAULT_FILTER, KATIB_FILTER


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
