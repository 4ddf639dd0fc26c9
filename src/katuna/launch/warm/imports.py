"""What a program's source says of its start: which libraries it imports, which a server of warm starts then imports before it is
forked, and which environment variables it writes."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from katuna.launch.warm.run_script import Program, hiding

LIBRARIES = frozenset({"numpy", "pandas", "pyarrow", "safetensors", "scipy", "sklearn", "torch", "torchvision"})
"""They take long to import, and start no thread when the server's own environment (warm.py) forbids them to."""
OURS = "katuna"
WITH_FIRST_USE = {
    "katuna.runtime.export": (
        *("onnxscript", "onnxscript.function_libs.torch_lib.ops", "sympy.tensor.tensor"),
        *("torch.export._trace", "torch.onnx", "torch.onnx._internal.exporter._core", "torch.onnx._internal.exporter._torchlib"),
    )
}
"""What modules import when they are first used: the exporter of PyTorch, for a second and a half. ONNX Runtime starts a thread."""


def source(
    program: Program, folder: Path, paths: Sequence[str], trees: Callable[[Path], Sequence[Path]] = lambda path: (path,)
) -> Path | None:
    """The file that holds the program, looked for where Python would; None where it is no such file.

    `trees` gives the places in which the program would find a path, where it sees other files than this process.
    """
    if not program.is_module:
        return next((path for path in trees(folder / program.target) if path.is_file()), None)
    places = [*(tree for entry in (folder, *(folder / entry for entry in paths)) for tree in trees(entry)), *map(Path, sys.path)]
    return next((found for place in places if (found := _module(place, program.target, "__main__"))), None)


@dataclass(frozen=True)
class Needs:
    """`modules` of LIBRARIES, and of katuna, and what its own files write: pairs of a file's name and a variable."""

    modules: frozenset[str]
    writes: tuple[tuple[str, str], ...]


def needs(file: Path, paths: Sequence[str]) -> Needs:
    """The imports and environment writes of a program that begins with this file, in it and in the files beside it or in
    `paths` that it imports.

    Files are read again only once they have changed.
    """
    places = _Places([file.parent, *map(Path, paths)])
    found: set[str] = set()
    writes: list[tuple[str, str]] = []
    seen: set[Path] = set()
    waiting = [(file, True)]
    while waiting:
        current, is_own = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        said = _said(current)
        if is_own:
            writes += [(current.name, variable) for variable in said.writes]
            waiting += [(path, True) for path in said.near if path.is_file()]
        for name in said.imports:
            top = name.partition(".")[0]
            if top == OURS:
                waiting += [(path, False) for path in _ours(name)]
            elif top not in LIBRARIES:
                waiting += [(path, True) for path in places.modules(top, name)]
                continue
            # What is imported for the change that it makes is each program's own.
            if "experimental" not in name:
                found |= {name, *WITH_FIRST_USE.get(name, ())}
    return Needs(frozenset(found), tuple(writes))


def hidden(folder: Path) -> str:
    """A file or folder here that a cold Python would import in place of a library's module; "" when there is none."""
    return hiding(folder, LIBRARIES | {OURS, "sitecustomize", "usercustomize"} | sys.stdlib_module_names)


class _Places:
    """Folders, each listed once."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = [(folder, _stems(folder)) for folder in dict.fromkeys(folders)]

    def modules(self, top: str, name: str) -> list[Path]:
        return [
            path for folder, stems in self._folders if top in stems and (path := _module(folder, name, "__init__")) is not None
        ]


def _stems(folder: Path) -> set[str]:
    try:
        return {entry.partition(".")[0] for entry in os.listdir(folder)}  # noqa: PTH208
    except OSError:
        return set()


@cache
def _ours(name: str) -> tuple[Path, ...]:
    """Where a module of katuna lies: it is not moved while katuna runs."""
    path = _module(Path(__file__).parents[3], name, "__init__")
    return (path,) if path else ()


def _module(place: Path, name: str, inside: str) -> Path | None:
    path = place.joinpath(*name.split("."))
    return next((file for file in (path.with_name(f"{path.name}.py"), path / f"{inside}.py") if file.is_file()), None)


# One file


@dataclass(frozen=True)
class _Said:
    """Every name that may be a module, every file that a relative import may mean, and the environment variables that are
    written by a literal name."""

    imports: tuple[str, ...] = ()
    near: tuple[Path, ...] = ()
    writes: tuple[str, ...] = ()


def _said(file: Path) -> _Said:
    try:
        found = file.stat()
    except OSError:
        return _Said()
    return _parsed(str(file), found.st_mtime_ns, found.st_size, found.st_ino)


@lru_cache(maxsize=4096)
def _parsed(file: str, *_version: int) -> _Said:
    """Nothing of a file that is no Python."""
    try:
        text = Path(file).read_bytes()
        tree = ast.parse(text)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return _Said()
    imports: dict[str, None] = {}
    near: list[Path] = []
    writes: dict[str, None] = {}
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            imports |= dict.fromkeys(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imports |= dict.fromkeys([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
        elif isinstance(node, ast.ImportFrom) and node.level:
            package = Path(file).parents[node.level - 1] if node.level <= len(Path(file).parents) else Path(file)
            package = package.joinpath(*(node.module or "").split("."))
            modules = [package, *(package / alias.name for alias in node.names)]
            near += [path for module in modules for path in (Path(f"{module}.py"), module / "__init__.py")]
    if b"environ" in text or b"env(" in text:
        writes = dict.fromkeys(name for node in ast.walk(tree) for name in _written(node))
    return _Said(tuple(imports), tuple(near), tuple(writes))


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements, without those under `if TYPE_CHECKING`."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and _name(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting += getattr(node, field, ())


def _written(node: ast.AST) -> Iterator[str]:
    """The variables that this writes, or takes away: `os.environ["A"] = ...`, `environ.update(A=...)`, `os.putenv("A", ...)`."""
    match node:
        case ast.Subscript(value=target, slice=key, ctx=ast.Store() | ast.Del()) if _name(target) == "environ":
            yield from _literal(key)
        case ast.AugAssign(target=target, value=value) if _name(target) == "environ":
            yield from _keys(value)
        case ast.Call(func=ast.Attribute(value=target, attr="update")) if _name(target) == "environ":
            yield from _keys(node)
        case ast.Call(func=ast.Attribute(value=target, attr="setdefault" | "pop"), args=[key, *_]) if _name(target) == "environ":
            yield from _literal(key)
        case ast.Call(func=function, args=[key, *_]) if _name(function) in ("putenv", "unsetenv"):
            yield from _literal(key)


def _name(node: ast.AST) -> str:
    """Its last part, however it was imported."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _literal(node: ast.AST | None) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def _keys(node: ast.AST) -> Iterator[str]:
    """The literal keys of a dict display, or of a call with the arguments of `dict`."""
    if isinstance(node, ast.Dict):
        for key in node.keys:
            yield from _literal(key)
    elif isinstance(node, ast.Call):
        yield from (word.arg for word in node.keywords if word.arg)
        for argument in node.args:
            yield from _keys(argument)
