"""YAML text as kubectl reads it: plain JSON values with the place of each; no PyYAML constructor or resolver takes part.

Scalars, keys, anchors and merge keys follow sigs.k8s.io/yaml (its goyaml.v2). Three things are stricter here: duplicate
keys, tags of one's own, and aliases that expand without measure are refused.
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
"""Nodes that aliases may add to a document."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_UNSHOWN = frozenset(("env", "envFrom", "stringData"))
"""Fields below which a finding shows no value: it may be a secret."""

Place = tuple[int, int]
"""Line and column, from 1."""


@dataclass(frozen=True)
class Source:
    """A file's name, as messages show it, and its text."""

    name: str
    text: str = field(repr=False)


@dataclass(frozen=True)
class Document:
    """One YAML document: its JSON value, and where each field and each field's name stand. `root` is the path that its own paths
    begin with: not empty for a document inside another."""

    file: str
    value: Any
    places: Mapping[Path, Place]
    keys: Mapping[Path, Place]
    text: str = ""
    root: Path = ()

    def place(self, path: Path, at_key: bool = False) -> Place:
        """Where the field stands, or the nearest field around it that the file has."""
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
        # What says of itself no kind, or holds others that cannot be read, may be one too.
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

        Places are exact when the field is a literal block (`|`) and the field's own otherwise.
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
    """A text that is not a usable document; `hint` is the next step."""

    def __init__(self, place: Place, message: str, hint: str = "", path: Path = ()) -> None:
        self.place, self.message, self.hint, self.path = place, message, hint, path
        super().__init__(message)

    def finding(self, file: str) -> Finding:
        return Remark(self.path, self.message, self.hint, code="not-yaml").at(file, self.place)


def parse(source: Source) -> tuple[list[Document], list[Finding]]:
    """The documents of a text, empty ones left out, and what is wrong with it up to the place where it cannot be read on."""
    text = source.text.removeprefix("\ufeff")
    documents: list[Document] = []
    findings: list[Finding] = []
    try:
        for root in _compose(text):
            reader = _Reader(source.name)
            document = Document(source.name, reader.read(root, ()), reader.places, reader.keys, text)
            findings += reader.findings
            if document.value is not None:
                documents.append(document)
    except _Refused as refused:
        return documents, [*findings, refused.finding(source.name)]
    if not documents and not findings:
        empty = Finding(
            source.name,
            0,
            0,
            "",
            "the file is empty",
            hint="it must hold a Kubernetes manifest: apiVersion, kind, metadata, spec",
            code="empty-file",
        )
        return [], [empty]
    return documents, findings


# Composing: events to nodes, without recursion, so that no text can exhaust the stack.


@dataclass
class _Node:
    place: Place
    text: str = ""
    tag: str = ""
    plain: bool = False
    items: list[_Node] | None = None
    pairs: list[tuple[_Node, _Node]] | None = None
    pending_key: _Node | None = None
    open: bool = field(default=True)

    def add(self, child: _Node) -> None:
        if self.items is not None:
            self.items.append(child)
        elif self.pending_key is None:
            self.pending_key = child
        else:
            assert self.pairs is not None
            self.pairs.append((self.pending_key, child))
            self.pending_key = None


def _compose(text: str) -> Iterator[_Node]:
    """One root node a document. Raises _Refused where the text is not YAML."""
    stack: list[_Node] = []
    anchors: dict[str, _Node] = {}
    for event in _events(text):
        if isinstance(event, yaml.DocumentStartEvent):
            anchors = {}
        elif isinstance(event, yaml.CollectionEndEvent):
            node = stack.pop()
            node.open = False
            if not stack:
                yield node
        elif isinstance(event, yaml.NodeEvent):
            node = _node(event, anchors)
            if stack:
                stack[-1].add(node)
            if isinstance(event, yaml.CollectionStartEvent):
                stack.append(node)
                if len(stack) > MAX_DEPTH:
                    raise _Refused(node.place, f"nested more than {MAX_DEPTH} levels deep", "no Kubernetes object is")
            elif not stack:
                yield node


def _node(event: Any, anchors: dict[str, _Node]) -> _Node:
    place = (event.start_mark.line + 1, event.start_mark.column + 1)
    if isinstance(event, yaml.AliasEvent):
        target = anchors.get(str(event.anchor))
        if target is None:
            raise _Refused(
                place,
                "this alias names no anchor before it",
                "write & and its name at the value it stands for, or quote a text that begins with *",
            )
        if target.open:
            raise _Refused(place, "this anchor contains itself")
        return target
    node = _Node(place, tag=event.tag or "")
    if isinstance(event, yaml.SequenceStartEvent):
        node.items = []
    elif isinstance(event, yaml.MappingStartEvent):
        node.pairs = []
    else:
        node.text, node.plain, node.open = event.value, event.implicit[0], False
    if event.anchor is not None:
        anchors[event.anchor] = node
    return node


def _events(text: str) -> Iterator[Any]:
    try:
        text.encode()
        yield from yaml.parse(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise _Refused(place, f"not YAML: {_problem(error)}", _advice(text, place)) from None
    except yaml.reader.ReaderError as error:
        before = text.encode()[: error.position].decode(errors="ignore")
        place = (before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise _Refused(place, f"not YAML: the character U+{ord(_char(error.character)):04X} is not allowed") from None
    except UnicodeEncodeError as error:
        place = (text.count("\n", 0, error.start) + 1, error.start - text.rfind("\n", 0, error.start))
        raise _Refused(place, "not text: the file is not UTF-8", "save it as UTF-8") from None


def _char(character: Any) -> str:
    """The C reader gives a number, the Python reader a character."""
    return character if isinstance(character, str) else chr(character)


def _problem(error: yaml.MarkedYAMLError) -> str:
    # PyYAML's own scanner quotes a tag's handle, which may be the beginning of a secret.
    problem = re.sub(r"(tag handle) .*", r"\1", error.problem or "it cannot be read", flags=re.DOTALL)
    if error.context and error.context_mark:
        return f"{problem} {error.context} that begins at line {error.context_mark.line + 1}"
    return problem


def _advice(text: str, place: Place) -> str:
    lines = text.splitlines()
    line = lines[place[0] - 1] if place[0] <= len(lines) else ""
    if "\t" in line[: max(place[1], len(line) - len(line.lstrip()))]:
        return "indent with spaces, YAML allows no tabs"
    if re.search(r":\s+\S.*:\s", line):
        return "quote a value that contains ': '"
    return ""


# Values: nodes to JSON, with the place of every path.


@dataclass
class _Reader:
    file: str
    findings: list[Finding] = field(default_factory=list)
    places: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    aliased: int = 0

    def read(self, node: _Node, path: Path) -> Any:
        self._count(node, path)
        self.places[path] = node.place
        if node.items is not None:
            _check_tag(node, "seq", path)
            return [self.read(item, (*path, index)) for index, item in enumerate(node.items)]
        if node.pairs is not None:
            _check_tag(node, "map", path)
            mapping: dict[str, Any] = {}
            self._fill(mapping, node.pairs, path)
            return mapping
        try:
            return scalar(node.text, node.tag, node.plain)
        except ValueError as error:
            self.findings.append(_Refused(node.place, str(error), path=path).finding(self.file))
            return node.text

    def _count(self, node: _Node, path: Path) -> None:
        if len(path) > MAX_DEPTH:
            raise _Refused(node.place, f"nested more than {MAX_DEPTH} levels deep", "aliases count too")
        self.aliased += id(node) in self.seen
        self.seen.add(id(node))
        if self.aliased > MAX_ALIASED:
            raise _Refused(
                node.place,
                f"the aliases of this document expand to more than {MAX_ALIASED} values",
                "write it out, or in several files",
            )

    def _fill(self, mapping: dict[str, Any], pairs: list[tuple[_Node, _Node]], path: Path) -> None:
        own: dict[str, Place] = {}
        for key_node, value_node in pairs:
            if _is_merge(key_node):
                for merged in _merged(value_node, path):
                    self._fill(mapping, merged, path)
                continue
            key = _key(key_node, path)
            if key in own:
                line, column = own[key]
                message = f"the key {shown(key)} is written twice; first at line {line}, column {column}"
                twice = Remark((*path, key), message, "keep one of the two", code="repeated-key")
                self.findings.append(twice.at(self.file, key_node.place))
                continue
            own[key] = key_node.place
            self.keys[(*path, key)] = key_node.place
            mapping[key] = self.read(value_node, (*path, key))


def _check_tag(node: _Node, short: str, path: Path) -> None:
    if node.tag not in ("", "!", f"tag:yaml.org,2002:{short}"):
        raise _Refused(node.place, _unsupported(node.tag), "leave it out", path)


def _is_merge(node: _Node) -> bool:
    return (
        node.text == "<<" and node.items is None and node.pairs is None and (node.plain or node.tag == "tag:yaml.org,2002:merge")
    )


def _merged(node: _Node, path: Path) -> list[list[tuple[_Node, _Node]]]:
    """The mappings that a merge key brings in, the one that wins last. As in kubectl, and unlike the YAML specification, a
    merge key that comes after a field of the same name replaces it."""
    nodes = node.items[::-1] if node.items is not None else [node]
    if any(each.pairs is None for each in nodes):
        raise _Refused(node.place, "the merge key << needs a mapping or a list of mappings", path=path)
    return [each.pairs or [] for each in nodes]


def _key(node: _Node, path: Path) -> str:
    """JSON keys are text: kubectl turns numbers and booleans into theirs."""
    if node.items is not None or node.pairs is not None:
        raise _Refused(node.place, "a key cannot be a list or a mapping", "quote a key that begins with [ or {", path)
    try:
        value = scalar(node.text, node.tag, node.plain)
    except ValueError as error:
        raise _Refused(node.place, str(error), path=path) from None
    if value is None:
        raise _Refused(node.place, "a key cannot be null", f'write "{node.text}" in quotes' if node.text else "", path)
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else format(value, ".8g") if isinstance(value, float) else str(value)


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
_TAGS = frozenset(
    ("binary", "bool", "float", "int", "map", "merge", "null", "omap", "pairs", "seq", "set", "str", "timestamp", "value", "yaml")
)
_BASES = {"hex": 16, "bin": 2, "oct": 8, "dec": 10}


def scalar(text: str, tag: str = "", plain: bool = True) -> str | int | float | bool | None:
    """The JSON value of a scalar. Raises ValueError for a tag that is not YAML's own, a value that does not fit its tag, and
    infinities and NaN, which JSON does not have."""
    if tag in ("", "!"):
        return _resolved(text) if plain and not tag else text
    short = tag.removeprefix("tag:yaml.org,2002:")
    if short in ("str", "timestamp"):
        return text
    kinds: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "null": (type(None),)}
    if short == tag or short not in kinds:
        raise ValueError(_unsupported(tag))
    value = _resolved(text)
    if not isinstance(value, kinds[short]) or (isinstance(value, bool) and short != "bool"):
        raise ValueError(f"this is not a YAML {short}")
    return value


def _unsupported(tag: str) -> str:
    """A tag's name is told where YAML has given it: a text that begins with `!` is one too, and may be a secret."""
    short = tag.removeprefix("tag:yaml.org,2002:")
    return (
        f"the tag !!{short} is not supported"
        if short != tag and short in _TAGS
        else "tags of one's own are not supported; quote a text that begins with '!'"
    )


def _resolved(text: str) -> str | int | float | bool | None:
    if text in _WORDS:
        return _WORDS[text]
    if text in _NOT_FINITE:
        raise ValueError("infinities and NaN are no numbers that JSON can hold; quote it if it is a text")
    if text[0] not in "+-.0123456789":
        return text
    # Go's own parser reads what begins with a point, and takes an underscore between digits only.
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
    # A JSON number has no "float" mark: Go writes 1.0 as 1 and reads a whole number back.
    return int(number) if number.is_integer() and abs(number) < 1e21 else number
