"""Which libraries a program imports, read from its source: what a server of warm starts imports before it is forked."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from katuna.launch.asmain import Program

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


def source(program: Program, folder: Path, paths: Sequence[str]) -> Path | None:
    """The file that holds the program, looked for where Python would; None where it is no such file."""
    if not program.is_module:
        path = folder / program.target
        return path if path.is_file() else None
    places = [folder, *(folder / entry for entry in paths), *map(Path, sys.path)]
    return next((found for place in places if (found := _module(place, program.target, "__main__"))), None)


def libraries(file: Path, paths: Sequence[str]) -> frozenset[str]:
    """The modules of LIBRARIES, and of katuna, that the file imports anywhere, itself or through files beside it or in `paths`."""
    places = [file.parent, *map(Path, paths)]
    found: set[str] = set()
    seen: set[Path] = set()
    waiting = [file]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        for name in _imported(current):
            top = name.partition(".")[0]
            if top in LIBRARIES or top == OURS:
                found |= {name, *WITH_FIRST_USE.get(name, ())}
            nearby = [Path(__file__).parents[2]] if top == OURS else [] if top in LIBRARIES else places
            waiting += [path for place in nearby if (path := _module(place, name, "__init__"))]
    return frozenset(found)


def hidden(folder: Path) -> str:
    """A file or folder here that a cold Python would import in place of a library's module; "" when there is none."""
    try:
        names = {entry.partition(".")[0] for entry in os.listdir(folder) if entry.endswith(".py") or "." not in entry}  # noqa: PTH208
    except OSError:
        return ""
    return min(names & (LIBRARIES | {OURS, "sitecustomize", "usercustomize"} | sys.stdlib_module_names), default="")


def _module(place: Path, name: str, inside: str) -> Path | None:
    path = place.joinpath(*name.split("."))
    return next((file for file in (path.with_name(f"{path.name}.py"), path / f"{inside}.py") if file.is_file()), None)


def _imported(file: Path) -> Iterator[str]:
    """Every name that may be a module; nothing of a file that is no Python."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in _executed(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """All below, but for what is there for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from _executed(child)
