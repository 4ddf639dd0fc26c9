"""Who may import whom: the layers of docs/architecture.md, read from the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[1] / "src" / "katuna"
TRAINERS = Path(__file__).parents[1] / "trainers"

BASE = {"errors", "text", "clock", "trees", "log", "metric_line", "dataset"}
"""Modules that stand alone, and that everybody may import."""

# From the bottom up: each package may import those named, the base, and itself.
LAYERS: dict[str, set[str]] = {
    "base": set(),
    "runtime": set(),
    "manifest": set(),
    "metrics": {"manifest"},
    "lint": {"manifest", "metrics"},
    "jobs": {"manifest"},
    "search": {"manifest", "jobs"},
    "launch": {"manifest", "jobs", "search"},
    "cluster": {"manifest", "jobs", "search"},
    "report": {"manifest", "search", "jobs"},
    "runs": {"manifest", "lint", "jobs", "search", "metrics", "launch", "cluster", "report"},
    "cli": {"manifest", "lint", "jobs", "search", "metrics", "launch", "cluster", "report", "runs"},
}

# Heavy libraries enter through these files alone, and there inside functions.
GATES = {
    "optuna": {
        *("search/space.py", "search/draws.py", "search/samplers.py", "search/study.py"),
        *("report/figures.py", "report/tables.py"),
    },
    "cmaes": {"search/cma.py"},
    "scipy": {"search/suggest.py"},
    "pandas": {"report/tables.py", "runs/run.py", "runtime/table.py"},
    "plotly": {"report/figures.py", "report/page.py"},
    "rich": {"cli/screen.py"},
    "tensorboard": {"metrics/tensorboard.py"},
    "torch": {"launch/storehost.py", *(f"runtime/{path.name}" for path in (SOURCES / "runtime").glob("*.py"))},
    "kubernetes": {"cluster/api.py"},
    "kubeflow": set(),
}


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(SOURCES.rglob("*.py")):
        yield path, ast.parse(path.read_text())


def unit_of(name: str) -> str:
    """The package that a dotted name below katuna belongs to."""
    first = name.partition(".")[0]
    return "base" if first in BASE else first


def imports(tree: ast.AST) -> Iterator[tuple[str, ast.stmt]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if (SOURCES / Path(*node.module.split(".")[1:])).is_dir():
                yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)
            else:
                yield node.module, node


def at_top(tree: ast.Module) -> set[ast.stmt]:
    """The statements that run when a module is imported; those under `if TYPE_CHECKING` do not."""
    return set(tree.body)


def name_of(path: Path) -> str:
    """A module's dotted name below katuna."""
    return ".".join(path.relative_to(SOURCES).with_suffix("").parts).removesuffix(".__init__")


def test_every_module_belongs_to_a_layer() -> None:
    assert {unit_of(name_of(path)) for path, _ in modules()} - {"__init__", "__main__"} == set(LAYERS)


def test_layers_import_downwards_only() -> None:
    """Imports inside functions count too."""
    wrong = []
    for path, tree in modules():
        here = unit_of(name_of(path))
        for name, node in imports(tree) if here in LAYERS else ():
            there = unit_of(name.removeprefix("katuna.")) if name.startswith("katuna.") else "base"
            if there not in {here, "base"} | LAYERS[here]:
                wrong.append(f"{path.relative_to(SOURCES)}:{node.lineno}: {here} imports {there}")
    assert not wrong, "\n".join(wrong)


def test_layers_have_no_cycle() -> None:
    seen: set[str] = set()
    for unit, below in LAYERS.items():
        assert below <= seen, f"{unit} is listed before {below - seen}"
        seen.add(unit)


def test_modules_have_no_cycle() -> None:
    """Imports inside functions count too."""
    known = {name_of(path) for path, _ in modules()}
    below = {
        name_of(path): {name.removeprefix("katuna.") for name, _ in imports(tree) if name.startswith("katuna.")} & known
        for path, tree in modules()
    }
    TopologicalSorter(below).prepare()


def test_engine_sees_contracts_and_nothing_concrete() -> None:
    names = {name for name, _ in imports(ast.parse((SOURCES / "search" / "engine.py").read_text()))}
    assert not {
        name
        for name in names
        if name.startswith(("katuna.launch", "katuna.runs", "katuna.search.suggest", "optuna", "subprocess", "os", "time"))
    }


@pytest.mark.parametrize("library", GATES)
def test_heavy_libraries_enter_through_their_gates(library: str) -> None:
    for path, tree in modules():
        for name, node in imports(tree):
            if name.partition(".")[0] == library:
                place = str(path.relative_to(SOURCES))
                assert place in GATES[library], f"{place}:{node.lineno} imports {library}"
                assert place.startswith("runtime/") or node not in at_top(tree), (
                    f"{place}:{node.lineno} imports {library} when it is itself imported"
                )


def test_loading_a_manifest_loads_no_heavy_library() -> None:
    code = (
        "import sys, katuna.lint.load, katuna.runs.rundir, katuna.runs.journal, katuna.report.katib_status; print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "katuna.lint.load" in loaded
    assert not {name.partition(".")[0] for name in loaded} & {*GATES, "numpy"}


def test_trainers_import_nothing_of_katuna_but_the_runtime_and_the_metric_line() -> None:
    for path in TRAINERS.glob("*.py"):
        names = {name for name, _ in imports(ast.parse(path.read_text())) if name.partition(".")[0] == "katuna"}
        assert all(name.startswith(("katuna.metric_line", "katuna.runtime")) for name in names), path


def test_the_metric_line_and_the_guard_need_the_standard_library_alone() -> None:
    for path in (SOURCES / "metric_line.py", SOURCES / "launch" / "guard.py", SOURCES / "launch" / "layers.py"):
        names = {name for name, _ in imports(ast.parse(path.read_text()))} - {"layers", "katuna.launch.layers"}
        assert {name.partition(".")[0] for name in names} <= set(sys.stdlib_module_names), path


def test_a_server_of_warm_starts_has_nothing_in_it_that_a_trial_did_not_ask_for() -> None:
    for path in (SOURCES / "launch" / "warm" / "server.py", SOURCES / "launch" / "warm" / "run_script.py"):
        tree = ast.parse(path.read_text())
        names = {name for name, node in imports(tree) if node in at_top(tree)}
        ours = ("katuna.launch.guard", "katuna.launch.warm.run_script", "katuna.launch.layers")
        assert all(name.startswith(ours) or name.partition(".")[0] in sys.stdlib_module_names for name in names), path


def test_files_are_read_in_one_sitting() -> None:
    lengths = {path.relative_to(SOURCES): len(path.read_text().splitlines()) for path, _ in modules()}
    assert {path: length for path, length in lengths.items() if length > 450} == {}


def test_nothing_evaluates_pickles_or_calls_a_shell() -> None:
    for path, tree in modules():
        for name, _ in imports(tree):
            assert name.partition(".")[0] not in {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}, path
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called == "exec" and path.name == "run_script.py":
                    # A warm trial's own script, which `python SCRIPT` would run just so.
                    continue
                assert called not in {"eval", "exec", "os.system", "yaml.load", "yaml.unsafe_load", "pickle.loads"}, (
                    f"{path}:{node.lineno}"
                )
                assert not any(keyword.arg == "shell" for keyword in node.keywords), f"{path}:{node.lineno}"
