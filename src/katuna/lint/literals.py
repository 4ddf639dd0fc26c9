"""Which files a Python program names in its source, as far as that can be told without running it."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath

MAX_PATH = 1024
"""Characters of a path that is joined of parts."""

_JOINS = re.compile(r"(Pure|Posix|PurePosix)?Path|join|joinpath")
_MAKES = re.compile(
    r"(save|write|dump|export|to_)\w*|mkdir|makedirs|touch|remove|unlink|rmtree|urlretrieve|exists|is_file|isfile|is_dir|isdir"
    r"|(\w*File)?Handler|basicConfig|SummaryWriter"
)
"""Functions whose files need not be there before: they write them, or look whether they are there."""
_WRITES = re.compile(r"[rwaxbt+U]*[wax][rwaxbt+U]*")
"""A mode of `open` that makes the file."""
_DECLARES = ("add_argument", "option")


@dataclass(frozen=True)
class Named:
    """`path` as it is written, or joined of parts that are; `flags` are the options whose default it is, () for none."""

    path: str
    line: int
    flags: tuple[str, ...] = ()


@lru_cache(maxsize=64)
def named_paths(source: bytes) -> tuple[Named, ...]:
    """Every text that may be one, by line, but for those of files that the program makes: `open("a.csv")`, `Path("d") / "a.npz"`.

    Nothing of a source that is no Python. Raises nothing.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
        reader = _Reader(tree)
        found = sorted(reader.found(tree), key=lambda each: each.line)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    return tuple(each for each in found if each.path not in reader.made)


class _Reader:
    """`made` are the paths that need not be there when the program starts."""

    def __init__(self, tree: ast.AST) -> None:
        self.made: set[str] = set()
        self._names: dict[str, str | None] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        # Of a name with two values neither can be told to be the one that is meant.
                        value = self._folded(node.value)
                        self._names[target.id] = value if target.id not in self._names else None

    def found(self, tree: ast.AST) -> Iterator[Named]:
        waiting: list[tuple[ast.AST, tuple[str, ...]]] = [(tree, ())]
        while waiting:
            node, flags = waiting.pop()
            path = self._folded(node)
            if path is not None:
                if not isinstance(node, ast.Name):
                    yield Named(path, getattr(node, "lineno", 0), flags)
                continue
            if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
                continue  # A part of a path, or a docstring.
            children = list(ast.iter_child_nodes(node))
            if isinstance(node, ast.Call):
                flags = flags or _flags(node)
                self.made |= {path for path in map(self._folded, self._makes(node)) if path is not None}
            if self._is_joined(node):
                # It goes on from a folder that is not known.
                children = [each for each in children if self._folded(each) is None]
            waiting += [(each, flags) for each in children]

    def _folded(self, node: ast.AST) -> str | None:
        """The text that the expression is; None where it cannot be told."""
        match node:
            case ast.Constant(value=str(text)):
                return text
            case ast.Name(id=name):
                return self._names.get(name)
            case ast.BinOp(op=ast.Div(), left=left, right=right):
                parts = [left, right]
            case ast.Call(func=function, args=[_, *_] as parts, keywords=[]) if _JOINS.fullmatch(_name(function)):
                # `folder.joinpath(...)` goes on from its own object, and `os.path.join` from none.
                parts = [function.value, *parts] if isinstance(function, ast.Attribute) and function.attr == "joinpath" else parts
            case _:
                return None
        texts = [self._folded(part) for part in parts]
        if None in texts or sum(map(len, filter(None, texts))) > MAX_PATH:
            return None
        return str(PurePosixPath(*filter(None, texts)))

    def _is_joined(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Call):
            return _JOINS.fullmatch(_name(node.func)) is not None
        return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)

    def _makes(self, call: ast.Call) -> list[ast.expr]:
        """The expressions of the files that the call writes, or looks for."""
        given = [*call.args, *(each.value for each in call.keywords)]
        name = _name(call.func)
        modes = [each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        if not (_MAKES.fullmatch(name) or (name == "open" and any(map(_WRITES.fullmatch, modes)))):
            return []
        return [*given, *([call.func.value] if isinstance(call.func, ast.Attribute) else [])]


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""


def _flags(call: ast.Call) -> tuple[str, ...]:
    """Those that the call declares: `add_argument("--data", default=...)`."""
    texts = (each.value for each in call.args if isinstance(each, ast.Constant)) if _name(call.func) in _DECLARES else ()
    return tuple(text for text in texts if isinstance(text, str) and text.startswith("-"))
