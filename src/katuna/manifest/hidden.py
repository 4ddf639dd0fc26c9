"""Text that a Secret is part of: a value of its own type, so that whatever writes it somewhere writes a mark in its place."""

from __future__ import annotations

from typing import NoReturn, TypeAlias

MARK = "(secret)"
"""What stands for a value of a Secret, or of the calling shell in its place."""


class Hidden:
    """No `str`: joined, written or sent as JSON it is a TypeError, and in a message it is `told`, which has marks in the place of
    values. `revealed` gives its value, for processes and their folders alone."""

    __slots__ = ("_told", "_value")

    def __init__(self, value: str, told: str = MARK) -> None:
        self._value, self._told = value, told

    def __str__(self) -> str:
        return self._told

    def __repr__(self) -> str:
        return repr(self._told)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hidden) and (self._value, self._told) == (other._value, other._told)

    def __hash__(self) -> int:
        return hash(self._told)

    def __reduce__(self) -> NoReturn:
        raise TypeError("what a Secret holds is not pickled")


Text: TypeAlias = str | Hidden
"""`str(text)` is what may be shown of it."""


def revealed(text: Text) -> str:
    """Its value. Of a command, for the process that is started; of a path, for the file system."""
    return text._value if isinstance(text, Hidden) else text
