"""Text that trials and files made, fit to be shown: nothing in it steers a terminal or turns the writing direction."""

from __future__ import annotations


def printable(text: str, *, newlines: bool = False) -> str:
    """`text` with every control character, escape, unpaired surrogate and bidirectional mark written out as \\x1b, \\u202e, ...

    `newlines` lets line feeds and tabs stand.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or (newlines and char in "\n\t") else ascii(char)[1:-1] for char in text)


def shorten(text: str, width: int) -> str:
    """At most `width` characters; an ellipsis stands for what was cut off."""
    return text if len(text) <= width else text[: width - 1] + "…"


def duration(seconds: float | None) -> str:
    """4.2s, 3m05s, 2h10m, 4d3h."""
    if seconds is None:
        return ""
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}h{minutes:02d}m"
    return f"{hours // 24}d{hours % 24}h"


def counted(number: int, word: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number} {word}{'' if number == 1 else 's'}"
