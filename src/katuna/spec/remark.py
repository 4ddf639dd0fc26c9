"""Remarks that rules make on a manifest: a field path and what is wrong there, not yet bound to a file and a line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from katuna.errors import EVERYWHERE, Engine, Finding, Level
from katuna.text import printable

Path = tuple[str | int, ...]
"""Keys and list indices from the top of a document."""

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")


@dataclass(frozen=True)
class Remark:
    """`at_key` places the remark at the field's name rather than at its value."""

    path: Path
    message: str
    hint: str = ""
    level: Level = "error"
    on: tuple[Engine, ...] = EVERYWHERE
    at_key: bool = False
    code: str = ""

    def below(self, prefix: Path) -> Remark:
        """The same remark on a document that holds this one at `prefix`."""
        return replace(self, path=prefix + self.path)

    def at(self, file: str, place: tuple[int, int]) -> Finding:
        """The remark as a finding in a file; names and values in it are made safe to show."""
        path, message, hint = map(printable, (path_text(self.path), self.message, self.hint))
        return Finding(file, *place, path, message, self.level, hint, self.on, self.code)


def path_text(path: Path) -> str:
    """The path as the Kubernetes API server writes it: `spec.parameters[0].name`, `metadata.labels[a/b]`."""
    text = ""
    for part in path:
        if isinstance(part, int) or not _PLAIN_KEY.match(part):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The known word nearest to `word`, or "". A different case alone is always near enough."""
    choices = list(known)
    for choice in choices:
        if choice.lower() == word.lower():
            return choice
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.7)
    return near[0] if near else ""


def listed(words: Iterable[str]) -> str:
    return ", ".join(words)


NUL = "\0"
NUL_MESSAGE = "holds a NUL character, which no process can be given"


def shown(value: object, limit: int = 60) -> str:
    """A value as a message may show it: one short printable line."""
    text = ascii(value) if not isinstance(value, str) else repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
