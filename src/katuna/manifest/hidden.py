"""Text that a Secret is part of. It has a type of its own, so that messages and files show a mark in its place."""

from __future__ import annotations

from typing import NoReturn, TypeAlias

MARK = "(secret)"
"""Stands for a value of a Secret, or for the calling shell's value in its place."""


class Hidden:
    """It is no `str`: to join it, write it or send it as JSON is a TypeError. A message shows `told`, which has marks in the place of
    values. `revealed` gives the value, for processes and their folders alone."""

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
"""`str(text)` may be shown."""


def revealed(text: Text) -> str:
    """The value itself, only for the process that is started and for the file system."""
    return text._value if isinstance(text, Hidden) else text
