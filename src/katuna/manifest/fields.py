"""The fields that each kind has and the JSON type of each: a walk over a manifest along `fields.json`.

`fields.json` is written by tools/make_fields.py from the CRDs; names are case-sensitive, as in the Kubernetes decoder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path as File
from typing import Any, NamedTuple

from katuna.errors import CLUSTERS, EVERYWHERE, KATIB, KATUNA, LOCAL, Engine
from katuna.manifest.diagnostic import Path, Remark, did_you_mean, listed, shown
from katuna.manifest.quantity import quantity

Type = Any
"""A type name, ["list of"], {"*": "map of"} or {"field": "type"}; see tools/make_fields.py."""


class Reach(NamedTuple):
    """For which engines a remark is an error and for which a warning."""

    errors: tuple[Engine, ...] = ()
    warnings: tuple[Engine, ...] = ()

    def of(self, remark: Remark) -> Iterator[Remark]:
        if self.errors:
            yield replace(remark, level="error", on=self.errors)
        if self.warnings:
            yield replace(remark, level="warning", on=self.warnings)


REFUSED = Reach(EVERYWHERE)
LATER = Reach(KATUNA, KATIB)
"""Katib takes the Experiment, and then no trial of it gets a pod."""
DROPPED = Reach(LOCAL, CLUSTERS)
"""A cluster drops such a field without a word, though kubectl refuses it by default; on this machine it is an error."""


class Reader(NamedTuple):
    """A reader of manifests: the reach of its verdict on unknown fields, wrong types, missing fields and nulls in lists."""

    unknown: Reach
    wrong: Reach
    missing: Reach
    null: Reach = REFUSED
    """Of a null in a list, which Go takes for an empty item."""


WEBHOOK = Reader(DROPPED, REFUSED, Reach(), LATER)
"""Katib's admission of an Experiment. It has rules of its own for required fields."""
API_SERVER = Reader(DROPPED, REFUSED, REFUSED)
STRICT = Reader(REFUSED, REFUSED, LATER)
"""Katib decodes the Job of a trial strictly; the API server then demands required fields."""
UNREAD = Reader(DROPPED, LATER, LATER, LATER)
"""Katib passes on a trial's object of another kind without reading it."""


_EMPTY_ITEMS = {"string": "", "int32": 0}
_FLOAT = re.compile(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?\Z", re.ASCII)


@dataclass(frozen=True)
class Examined:
    """`known` is the manifest without unknown fields, nulls and values of a wrong type: rules can rely on its shape.

    `lost` are the paths whose values a wrong type or a misspelt name took away: a remark has told that already.
    """

    known: dict[str, Any]
    remarks: tuple[Remark, ...]
    lost: frozenset[Path]


def kinds() -> tuple[tuple[str, str], ...]:
    """(apiVersion, kind) of every kind whose fields are known."""
    return tuple((name.split()[0], name.split()[1]) for name in _schema()["kinds"])


def examine(manifest: Mapping[str, Any], kind: str | None = None, reader: Reader = WEBHOOK) -> Examined:
    """The manifest against the fields of its kind, or of `kind` ("apiVersion Kind"), as `reader` takes it."""
    name = kind or f"{manifest.get('apiVersion')} {manifest.get('kind')}"
    walk = _Walk(reader, hides=name == "v1 Secret")
    known = walk.visit(manifest, _schema()["kinds"][name], ())
    return Examined(known if isinstance(known, dict) else {}, tuple(walk.remarks), frozenset(walk.lost))


def resolved(wanted: Type) -> Type:
    """The type that a definition's name stands for."""
    while isinstance(wanted, str) and wanted.startswith("#"):
        wanted = _schema()["definitions"][wanted[1:]]
    return wanted


def child_type(fields: Mapping[str, Type], name: str) -> tuple[Type | None, bool]:
    """The type of a field of an object or map, None for one that it does not have, and whether the schema demands the field."""
    if "*" in fields:
        return fields["*"], False
    return fields.get(name, fields.get(f"{name}!")), f"{name}!" in fields


def type_of(kind: str) -> Type:
    """The type of a kind ("apiVersion Kind"). Raises KeyError for one that is not known."""
    return _schema()["kinds"][kind]


class Typed(NamedTuple):
    """A value at a known path of a manifest. `required`: the schema demands the field, or the value is an item of a list or map."""

    path: Path
    value: Any
    type: Type
    required: bool


def typed_values(value: Any, wanted: Type, path: Path = (), *, required: bool = True) -> Iterator[Typed]:
    """The value and every value in it whose path its type knows, the outer before the inner. Unknown fields, and values below a
    wrong type, are left out."""
    wanted = resolved(wanted)
    yield Typed(path, value, wanted, required)
    if isinstance(wanted, list) and isinstance(value, list):
        for index, item in enumerate(value):
            yield from typed_values(item, wanted[0], (*path, index))
    elif isinstance(wanted, dict) and isinstance(value, dict):
        for name, child in value.items():
            inner, demanded = child_type(wanted, name)
            if inner is not None:
                yield from typed_values(child, inner, (*path, name), required=demanded or "*" in wanted)


@cache
def _schema() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(File(__file__).with_name("fields.json").read_text(encoding="utf-8"))
    return loaded


_MISSING: Any = object()
"""Stands for a value of a wrong type."""


@dataclass
class _Walk:
    reader: Reader
    hides: bool = False
    """No message quotes a value: it may be a Secret's, whatever the field."""
    remarks: list[Remark] = field(default_factory=list)
    lost: set[Path] = field(default_factory=set)

    def visit(self, value: Any, wanted: Type, path: Path) -> Any:
        wanted = resolved(wanted)
        if isinstance(wanted, list):
            return self._list(value, wanted[0], path)
        if isinstance(wanted, dict):
            return self._object(value, wanted, path)
        problem = _scalar_problem(value, wanted)
        if problem:
            message, hint = problem if not self.hides else (f"must be {_SCALARS[wanted][1]}", "")
            return self._wrong(Remark(path, message, hint, code="wrong-type"))
        return value

    def _list(self, value: Any, wanted: Type, path: Path) -> Any:
        if not isinstance(value, list):
            return self._refuse(value, "a list", path)
        items = [self._item(item, wanted, (*path, index)) for index, item in enumerate(value)]
        # A list without the wrong items would move the indices of the items after them.
        if any(item is _MISSING for item in items) and not _is_object(wanted):
            self.lost.add(path)
            return _MISSING
        return [{} if item is _MISSING else item for item in items]

    def _item(self, value: Any, wanted: Type, path: Path) -> Any:
        empty: Any = {} if _is_object(wanted) else _EMPTY_ITEMS.get(str(wanted))
        if value is not None or empty is None or self.reader.null is self.reader.wrong:
            return self.visit(value, wanted, path)
        self.remarks += self.reader.null.of(Remark(path, "an item must not be null: Katib takes an empty one", code="wrong-type"))
        return empty

    def _object(self, value: Any, wanted: Mapping[str, Type], path: Path) -> Any:
        if not isinstance(value, dict):
            return self._refuse(value, "a mapping", path)
        known: dict[str, Any] = {}
        demanded = [name[:-1] for name in wanted if name.endswith("!")]
        for name, child in value.items():
            wanted_child, _ = child_type(wanted, name)
            if wanted_child is None:
                self._unknown(name, wanted, path)
            elif child is not None or wanted_child == "any":
                visited = self.visit(child, wanted_child, (*path, name))
                if visited is not _MISSING:
                    known[name] = visited
        self._demand([name for name in demanded if name not in known], path)
        return known

    def _demand(self, names: list[str], path: Path) -> None:
        for name in names if self.reader.missing.errors else ():
            if (*path, name) not in self.lost:
                self.remarks += self.reader.missing.of(Remark((*path, name), "must be specified", code="missing-field"))
                self.lost.add((*path, name))

    def _refuse(self, value: Any, wanted: str, path: Path) -> Any:
        found = "" if self.hides else f", not {_named(value)}"
        return self._wrong(Remark(path, f"must be {wanted}{found}", code="wrong-type"))

    def _wrong(self, remark: Remark) -> Any:
        self.remarks += self.reader.wrong.of(remark)
        self.lost.add(remark.path)
        return _MISSING

    def _unknown(self, name: str, wanted: Mapping[str, Type], path: Path) -> None:
        names = [each.removesuffix("!") for each in wanted]
        meant = did_you_mean(name, names)
        holder = "" if meant else _holder(name, wanted)
        hint = f"fields here: {listed(sorted(names))}" if len(names) <= 10 else ""
        if meant:
            hint = f"did you mean {meant}?"
            self.lost.add((*path, meant))
        elif holder:
            hint = f"write it inside {holder}"
        remark = Remark((*path, name), "there is no such field", hint, at_key=True, code="unknown-field")
        self.remarks += self.reader.unknown.of(remark)


def _holder(name: str, wanted: Mapping[str, Type]) -> str:
    """The field of `wanted` whose own object has a field `name`, or ""."""
    for holder, fields in wanted.items():
        inner = resolved(fields)
        if isinstance(inner, dict) and (name in inner or f"{name}!" in inner):
            return holder.removesuffix("!")
    return ""


def _is_object(wanted: Type) -> bool:
    return isinstance(resolved(wanted), dict)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_quantity(value: Any) -> bool:
    try:
        quantity(value)
    except ValueError:
        return False
    return True


_SCALARS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "any": (lambda _: True, "anything"),
    "string": (lambda value: isinstance(value, str), "text"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "number": (_is_number, "a number"),
    "int32": (_is_whole, "a whole number"),
    "int64": (_is_whole, "a whole number"),
    "quantity": (_is_quantity, "a quantity such as 500m, 2 or 4Gi"),
    "intOrString": (lambda value: isinstance(value, str) or _is_whole(value), "a whole number or text"),
}
"""For each scalar type: the test of a value, and the type's name in a message."""


def _scalar_problem(value: Any, wanted: str) -> tuple[str, str] | None:
    """(message, hint) when the value is not of the type."""
    fits, name = _SCALARS[wanted]
    if not fits(value):
        return f"must be {name}, not {_named(value)}", _quoting_hint(value, wanted)
    bits = {"int32": 31, "int64": 63}.get(wanted)
    if bits and not -(2**bits) <= value < 2**bits:
        return f"must fit into {bits + 1} bits: {value} does not", ""
    return None


def _quoting_hint(value: Any, wanted: str) -> str:
    if wanted == "string" and isinstance(value, (bool, int, float)):
        return f'write it in quotes: "{_yaml_word(value)}"'
    if isinstance(value, str) and _FLOAT.match(value):
        return "write it without quotes"
    return ""


def _yaml_word(value: float) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _named(value: Any) -> str:
    """A value with its type, for a message."""
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return f"the truth value {_yaml_word(value)}"
    return f"the text {shown(value)}" if isinstance(value, str) else f"the number {value}"
