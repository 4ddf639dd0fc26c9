"""Remarks that rules make on a manifest: a field path and a message, not yet bound to a file and a line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from katuna.errors import EVERYWHERE, KATIB, KATUNA, Engine, Finding, Level
from katuna.text import printable

Path = tuple[str | int, ...]
"""Keys and list indices from the top of a document."""

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")


@dataclass(frozen=True)
class Remark:
    """`at_key` places the remark at the field's name instead of its value. `about` is the field at fault where the webhook names
    another field, `path`. `code` names the rule; each call writes it out, and docs/lint.md lists all codes."""

    path: Path
    message: str
    hint: str = ""
    level: Level = "error"
    on: tuple[Engine, ...] = EVERYWHERE
    at_key: bool = False
    code: str = ""
    about: Path = ()

    def below(self, prefix: Path) -> Remark:
        """The same remark on a document that holds this one at `prefix`."""
        return replace(self, path=prefix + self.path, about=prefix + self.about if self.about else ())

    def at(self, file: str, place: tuple[int, int], value: str = "") -> Finding:
        """The remark as a finding in a file; names and values in it are made safe to show."""
        path, message, hint = map(printable, (path_text(self.path), self.message, self.hint))
        return Finding(file, *place, path, message, self.level, hint, self.on, code=self.code, value=value)


def unlike_katib(remark: Remark, there: str) -> Iterator[Remark]:
    """An error for a run on this machine, and a warning for Katib, which takes the field; `there` is the consequence on Katib."""
    yield replace(remark, on=KATUNA)
    message = f"{remark.message}; Katib takes it, and {there}"
    yield replace(remark, message=message, level="warning", on=KATIB)


def path_text(path: Path) -> str:
    """The path as the Kubernetes API server writes it: `spec.parameters[0].name`, `metadata.labels[a/b]`; and the Training
    Operator's webhook: `spec.pytorchReplicaSpecs[Master].replicas`."""
    text = ""
    for before, part in zip(("", *path), path, strict=False):
        if isinstance(part, int) or before == "pytorchReplicaSpecs" or not _PLAIN_KEY.match(part):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The known word nearest to `word`, or "". A word that differs in case alone is always near enough."""
    choices = list(known)
    for choice in choices:
        if choice.lower() == word.lower():
            return choice
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.7)
    return near[0] if near else ""


def hint_of(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """The hint that names the known word nearest to `word`, or `otherwise`."""
    meant = did_you_mean(word, known)
    return f"did you mean {meant}?" if meant else otherwise


def one_of(path: Path, value: str, known: Sequence[str], about: Path = ()) -> Remark:
    """The remark on a text that must be one of `known`."""
    if not value:
        return Remark(path, "must be specified", f"one of: {listed(known)}", code="missing-field", about=about)
    hint = hint_of(value, known, f"one of: {listed(known)}")
    return Remark(path, f"{shown(value)} is not known", hint, code="unknown-value", about=about)


def listed(words: Iterable[str]) -> str:
    return ", ".join(words)


NUL = "\0"
NUL_MESSAGE = "holds a NUL character, which no process can be given"


def shown(value: object, limit: int = 60) -> str:
    """A value as a message may show it: one short printable line."""
    text = ascii(value) if not isinstance(value, str) else repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
