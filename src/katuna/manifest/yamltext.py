"""YAML text as kubectl reads it: plain JSON values with the place of each.

PyYAML makes the nodes. Scalars, keys and merge keys follow sigs.k8s.io/yaml (its goyaml.v2). katuna refuses more than kubectl does:
repeated keys, repeated anchors, tags that are not YAML's own, and aliases that expand to too many values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from katuna.errors import Finding
from katuna.manifest.diagnostic import Path, Remark, shown
from katuna.text import printable

MAX_DEPTH = 100
MAX_ALIASED = 50_000
"""The most nodes that aliases may add to a document."""

_YAML = "tag:yaml.org,2002:"
_UNSUPPORTED = "this tag is not supported: use !!str, !!int, !!float, !!bool or !!null; quote a text that begins with '!'"

_UNSHOWN = frozenset(("env", "envFrom", "stringData"))
"""Fields below which a finding shows no value: it may be a secret."""

Position = tuple[int, int]
"""Line and column, from 1."""


@dataclass(frozen=True)
class Source:
    """A file's name, as messages show it, and its text."""

    name: str
    text: str = field(repr=False)


@dataclass(frozen=True)
class Document:
    """One YAML document: its JSON value, and the positions of fields (`places`) and of their names (`keys`). Its paths begin with `root`,
    which is empty but for a document inside another document."""

    file: str
    value: Any
    places: Mapping[Path, Position]
    keys: Mapping[Path, Position]
    text: str = ""
    root: Path = ()

    def place(self, path: Path, at_key: bool = False) -> Position:
        """The position of the field, or of the nearest field around it that the file has."""
        for end in range(len(path), -1, -1):
            found = (self.keys if at_key and end else self.places).get(path[:end]) or self.places.get(path[:end])
            if found:
                return found
        return (1, 1)

    def finding(self, remark: Remark) -> Finding:
        about = remark.about or remark.path
        return remark.at(self.file, self.place(about, remark.at_key), self._shown(about[len(self.root) :]))

    def _shown(self, path: Path) -> str:
        """The field's own value, when it is a scalar and cannot be a secret."""
        value = self.value
        kind = str(value.get("kind") or "List") if isinstance(value, dict) else "List"
        # A document without a kind, or a list that cannot be read, may be a Secret too.
        secret = kind == "List" or "secret" in kind.lower()
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return ""
        hidden = secret or not _UNSHOWN.isdisjoint(path)
        return "" if hidden or value is None or isinstance(value, (dict, list)) else printable(shown(value))

    def inner(self, path: Path) -> Document:
        """The YAML that the text field at `path` holds, as a part of this document: same file, paths below `path`.

        Positions are exact when the field is a literal block (`|`); otherwise all positions are the field's own.
        """
        text = self.value
        for part in path:
            text = text[part]
        documents, _ = parse(Source(self.file, text))
        line = self.place(path, at_key=True)[0]
        outer, first = self.text.splitlines(), next((each for each in text.splitlines() if each.strip()), "")
        shift = len(outer[line]) - len(outer[line].lstrip()) if line < len(outer) else 0
        places, keys = {path: self.place(path)}, {path: self.place(path, at_key=True)}
        if documents and line < len(outer) and outer[line].strip() == first.strip():
            moved = [
                {path + each: (at[0] + line, at[1] + shift) for each, at in table.items()}
                for table in (documents[0].places, documents[0].keys)
            ]
            places, keys = moved[0] | places, moved[1] | keys
        return Document(self.file, documents[0].value if documents else None, places, keys, self.text, path)


class _Refused(Exception):
    """The text is not a usable document. `hint` is the next step."""

    def __init__(self, place: Position, message: str, hint: str = "", path: Path = ()) -> None:
        self.place, self.message, self.hint, self.path = place, message, hint, path
        super().__init__(message)

    def finding(self, file: str) -> Finding:
        return Remark(self.path, self.message, self.hint, code="not-yaml").at(file, self.place)


def parse(source: Source) -> tuple[list[Document], list[Finding]]:
    """The documents of a text without the empty documents, and findings up to the first text that is not YAML."""
    text = source.text.removeprefix("\ufeff")
    documents: list[Document] = []
    findings: list[Finding] = []
    try:
        for root in _compose(text):
            reader = _Reader(source.name, text)
            document = Document(source.name, reader.read(root, ()), reader.places, reader.keys, text)
            findings += reader.findings
            if document.value is not None:
                documents.append(document)
    except _Refused as refused:
        return documents, [*findings, refused.finding(source.name)]
    if not documents and not findings:
        hint = "it must hold a Kubernetes manifest: apiVersion, kind, metadata, spec"
        findings = [Remark((), "the file is empty", hint, code="empty-file").at(source.name, (0, 0))]
    return documents, findings


# Composing: PyYAML makes the nodes, and leaves plain scalars unresolved.

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN = ""
"""The tag of a plain scalar that has no tag in the text."""


class _Unresolved:
    """A loader's resolver that limits the depth of nodes, so that no text can exhaust the stack."""

    _depth = 0

    def descend_resolver(self, parent: yaml.Node | None, index: Any) -> None:  # noqa: ARG002
        self._depth += 1
        if parent is not None and self._depth > MAX_DEPTH:
            raise _Refused(_place(parent), f"nested more than {MAX_DEPTH} levels deep", "no Kubernetes object is")

    def ascend_resolver(self) -> None:
        self._depth -= 1

    def resolve(self, kind: type, value: Any, implicit: Any) -> str:  # noqa: ARG002
        if kind is not yaml.ScalarNode:
            return f"{_YAML}{'seq' if kind is yaml.SequenceNode else 'map'}"
        return _PLAIN if implicit[0] else f"{_YAML}str"


_Loader: Any = type("_Loader", (_Unresolved, _Base), {})


def _place(node: yaml.Node) -> Position:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _compose(text: str) -> Iterator[yaml.Node]:
    """The root node of each document. Raises _Refused where the text is not YAML."""
    try:
        yield from yaml.compose_all(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise _Refused(place, *_problem(error, text, place)) from None
    except (yaml.reader.ReaderError, UnicodeEncodeError):
        bad = yaml.reader.Reader.NON_PRINTABLE.search(text)
        at = bad.start() if bad else 0
        place = (text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at))
        message = f"not YAML: the character U+{ord(text[at]):04X} is not allowed"
        raise _Refused(place, message, "save the file as UTF-8 text, without control characters") from None


def _problem(error: yaml.MarkedYAMLError, text: str, place: Position) -> tuple[str, str]:
    """Message and hint, without the names that PyYAML quotes: each may be the beginning of a secret."""
    if isinstance(error, yaml.composer.ComposerError):
        if error.context:
            return "an anchor of this name is there already", "give each anchor a name of its own"
        hint = "write & and its name at the value it stands for, or quote a text that begins with *"
        return "this alias names no anchor before it", hint
    problem = re.sub(r"(tag handle) .*", r"\1", error.problem or "it cannot be read", flags=re.DOTALL)
    if error.context and error.context_mark:
        problem = f"{problem} {error.context} that begins at line {error.context_mark.line + 1}"
    lines = text.splitlines()
    line = lines[place[0] - 1] if place[0] <= len(lines) else ""
    hint = "quote a value that contains ': '" if re.search(r":\s+\S.*:\s", line) else ""
    if "\t" in line[: max(place[1], len(line) - len(line.lstrip()))]:
        hint = "indent with spaces, YAML allows no tabs"
    return f"not YAML: {problem}", hint


# Values: nodes to JSON, with the place of every path.


@dataclass
class _Reader:
    file: str
    text: str
    findings: list[Finding] = field(default_factory=list)
    places: dict[Path, Position] = field(default_factory=dict)
    keys: dict[Path, Position] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    aliased: int = 0

    def read(self, node: yaml.Node, path: Path) -> Any:
        self._limit(node, path)
        self.places[path] = _place(node)
        if isinstance(node, yaml.SequenceNode):
            _check_tag(node, "seq", path)
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            _check_tag(node, "map", path)
            mapping: dict[str, Any] = {}
            self._fill(mapping, node, path)
            return mapping
        return self._scalar(node, path)

    def _limit(self, node: yaml.Node, path: Path) -> None:
        if len(path) > MAX_DEPTH:
            hint = "aliases count too: an anchor must not contain itself"
            raise _Refused(_place(node), f"nested more than {MAX_DEPTH} levels deep", hint)
        self.aliased += id(node) in self.seen
        self.seen.add(id(node))
        if self.aliased > MAX_ALIASED:
            message = f"the aliases of this document expand to more than {MAX_ALIASED} values"
            raise _Refused(_place(node), message, "write it out, or in several files")

    def _fill(self, mapping: dict[str, Any], node: yaml.MappingNode, path: Path) -> None:
        """Adds the node's fields. As in kubectl, and unlike the YAML specification, a merge key replaces fields before it."""
        own: dict[str, Position] = {}
        for key_node, value_node in node.value:
            if key_node.value == "<<" and key_node.tag == _PLAIN:
                for merged in _merged(value_node, path):
                    self._fill(mapping, merged, path)
                continue
            key = self._key(key_node, path)
            if key in own:
                line, column = own[key]
                message = f"the key {shown(key)} is written twice; first at line {line}, column {column}"
                twice = Remark((*path, key), message, "keep one of the two", code="repeated-key")
                self.findings.append(twice.at(self.file, _place(key_node)))
                continue
            own[key] = self.keys[(*path, key)] = _place(key_node)
            mapping[key] = self.read(value_node, (*path, key))

    def _key(self, node: yaml.Node, path: Path) -> str:
        """JSON keys are text: kubectl turns numbers and booleans into theirs."""
        if not isinstance(node, yaml.ScalarNode):
            raise _Refused(_place(node), "a key cannot be a list or a mapping", "quote a key that begins with [ or {", path)
        value = self._scalar(node, path)
        if value is None:
            raise _Refused(_place(node), "a key cannot be null", f'write "{node.value}" in quotes' if node.value else "", path)
        if isinstance(value, bool):
            return "true" if value else "false"
        return format(value, ".8g") if isinstance(value, float) else str(value)

    def _scalar(self, node: yaml.Node, path: Path) -> str | int | float | bool | None:
        # PyYAML drops a lone `!`, which makes a text of any scalar; only the node's place shows it.
        lone = node.tag == _PLAIN and self.text.startswith("!", node.start_mark.index)
        try:
            return scalar(node.value, f"{_YAML}str" if lone else node.tag)
        except ValueError as error:
            self.findings.append(_Refused(_place(node), str(error), path=path).finding(self.file))
            return str(node.value)


def _check_tag(node: yaml.Node, short: str, path: Path) -> None:
    if node.tag != _YAML + short:
        raise _Refused(_place(node), _UNSUPPORTED, "leave it out", path)


def _merged(node: yaml.Node, path: Path) -> list[yaml.MappingNode]:
    """The mappings that a merge key adds; the last has precedence."""
    nodes = node.value[::-1] if isinstance(node, yaml.SequenceNode) else [node]
    mappings = [each for each in nodes if isinstance(each, yaml.MappingNode)]
    if len(mappings) < len(nodes):
        raise _Refused(_place(node), "the merge key << needs a mapping or a list of mappings", path=path)
    return mappings


# Scalars.

_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
}
_NOT_FINITE = {f"{sign}.{word}" for sign in ("", "+", "-") for word in ("inf", "Inf", "INF")} | {".nan", ".NaN", ".NAN"}
_INT = re.compile(
    r"(?P<sign>[-+]?)(?:0[xX](?P<hex>[0-9a-fA-F]+)|0[bB](?P<bin>[01]+)|0[oO]?(?P<oct>[0-7]+)|(?P<dec>0|[1-9][0-9]*))\Z"
)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_POINT_FIRST = re.compile(r"\.[0-9]+(_[0-9]+)*([eE][-+]?[0-9]+(_[0-9]+)*)?\Z")
_BASES = {"hex": 16, "bin": 2, "oct": 8, "dec": 10}
_KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "null": (type(None),)}


def scalar(text: str, tag: str = _PLAIN) -> str | int | float | bool | None:
    """The JSON value of a scalar. Raises ValueError for a tag that is not supported, a value that does not fit its tag, and
    infinities and NaN, which JSON does not have."""
    short = tag.removeprefix(_YAML)
    if tag == _PLAIN or short in ("str", "timestamp"):
        return _resolved(text) if tag == _PLAIN else text
    if short not in _KINDS:
        raise ValueError(_UNSUPPORTED)
    value = _resolved(text)
    if not isinstance(value, _KINDS[short]) or (isinstance(value, bool) and short != "bool"):
        raise ValueError(f"this is not a YAML {short}")
    return value


def _resolved(text: str) -> str | int | float | bool | None:
    if text in _WORDS:
        return _WORDS[text]
    if text in _NOT_FINITE:
        raise ValueError("infinities and NaN are no numbers that JSON can hold; quote it if it is a text")
    if text[0] not in "+-.0123456789":
        return text
    # Go's parser reads numbers that begin with a point, and allows an underscore between digits only.
    digits = text.replace("_", "") if text[0] != "." or _POINT_FIRST.match(text) else text
    whole = _INT.match(digits)
    if whole:
        base = next(name for name in _BASES if whole[name])
        value = int(whole["sign"] + whole[base], _BASES[base])
        if -(2**63) <= value < 2**63 or (not whole["sign"] and value < 2**64):
            return value
    if not _FLOAT.match(digits):
        return text
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        return text
    # A JSON number does not tell floats apart: Go writes 1.0 as 1 and reads a whole number back.
    return int(number) if number.is_integer() and abs(number) < 1e21 else number
