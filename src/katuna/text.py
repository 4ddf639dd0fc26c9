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
