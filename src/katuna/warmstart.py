"""Results from elsewhere that a search begins with: which of another run's trials, or of a table's rows, it can use."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from katuna.errors import InputRefused, RunNotFound
from katuna.run import Run
from katuna.search.given import Taken, normal
from katuna.spec.model import Experiment, Objective, Parameter
from katuna.spec.remark import listed
from katuna.store import rundir
from katuna.trials import Known, number

Row = tuple[str, Mapping[str, str], str]
"""Where it stands, parameter names to texts, and the objective metric's text."""

_FORMULA_GUARD = ("'=", "'+", "'-", "'@", "'\t", "'\n")
"""How a text begins that `katuna export` has kept from being a spreadsheet's formula."""


def taken_from(experiment: Experiment, sources: Sequence[str], home: Path | None = None) -> tuple[Taken, ...]:
    """What the search can use of each source, a CSV file or a run by name, prefix or path.

    Raises InputRefused for a source that is neither, that lacks a parameter, that was a search for something else, or of which
    nothing can be used.
    """
    return tuple(_taken(experiment, source, home) for source in sources)


def _taken(experiment: Experiment, source: str, home: Path | None) -> Taken:
    rows = _rows_of_file(experiment, Path(source)) if Path(source).is_file() else _rows_of_run(experiment, source, home)
    at = time.time()
    known: list[Known] = []
    left_out: dict[str, int] = {}
    outside: list[str] = []
    valueless = f"without a number for {experiment.objective.metric}"
    for place, texts, result in rows:
        value = number(result.strip())
        if value is None:
            left_out[valueless] = left_out.get(valueless, 0) + 1
            continue
        point = {parameter.name: normal(parameter, texts[parameter.name]) for parameter in experiment.parameters}
        strange = [f"{name}={texts[name]}" for name, text in point.items() if text is None]
        if strange:
            outside.append(f"{place}: {listed(strange)}")
        else:
            whole = {name: text for name, text in point.items() if text is not None}
            known.append(Known(at, MappingProxyType(whole), value, source))
    if outside:
        left_out[f"outside the space (first {outside[0]})"] = len(outside)
    found = Taken(source, tuple(known), left_out)
    if not known:
        raise InputRefused(f"--warm-start {found}" if left_out else f"--warm-start {source}: there is no result in it")
    return found


def _rows_of_run(experiment: Experiment, source: str, home: Path | None) -> Iterator[Row]:
    try:
        run = Run(rundir.find(source, home))
    except RunNotFound as error:
        raise RunNotFound(f"--warm-start {source}: no such file, and {error}") from None
    there, here = run.experiment, experiment.objective
    if (there.objective.type, there.objective.metric) != (here.type, here.metric):
        raise InputRefused(
            f"--warm-start {source}: that search is to {_aim(there.objective)}, this one to {_aim(here)}; "
            "only results of the same aim can be used"
        )
    _must_have(experiment, [parameter.name for parameter in there.parameters], source)
    for trial in run.trials:
        value = trial.value(here)
        yield f"trial {trial.number}", trial.assignments, "" if value is None else repr(value)


def _aim(objective: Objective) -> str:
    return f"{objective.type.value} {objective.metric}"


def _rows_of_file(experiment: Experiment, path: Path) -> Iterator[Row]:
    metric = experiment.objective.metric
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            header = [name for name in reader.fieldnames or () if name is not None]
            prefix, result = _columns(header, metric, path)
            _must_have(experiment, [name.removeprefix(prefix) for name in header if name.startswith(prefix)], str(path))
            for row in reader:
                texts = {
                    parameter.name: _unguarded(parameter, row[prefix + parameter.name]) for parameter in experiment.parameters
                }
                yield f"line {reader.line_num}", texts, row[result]
    except UnicodeDecodeError as error:
        raise InputRefused(f"--warm-start {path}: not UTF-8 text (byte {error.start}); is it a CSV file?") from None
    except csv.Error as error:
        raise InputRefused(f"--warm-start {path}: no CSV file: {error}") from None
    except OSError as error:
        raise InputRefused(f"--warm-start {path}: {error.strerror or error}") from None


def _columns(header: Sequence[str], metric: str, path: Path) -> tuple[str, str]:
    """(prefix of parameter columns, name of the result's column): plain names, or those of `katuna export`."""
    if "objective" in header and any(name.startswith("params.") for name in header):
        first = next((name.removeprefix("metrics.") for name in header if name.startswith("metrics.")), "")
        if first != metric:
            raise InputRefused(
                f"--warm-start {path}: an export of a search for {first or 'no metric'}, this one is for {metric}; "
                "only results of the same aim can be used"
            )
        return "params.", "objective"
    if metric not in header:
        raise InputRefused(f"--warm-start {path}: no column {metric}, the objective metric; columns: {listed(header) or 'none'}")
    return "", metric


def _must_have(experiment: Experiment, names: Sequence[str], source: str) -> None:
    missing = [parameter.name for parameter in experiment.parameters if parameter.name not in names]
    if missing:
        raise InputRefused(f"--warm-start {source}: nothing for parameter {listed(missing)}; it has {listed(names) or 'none'}")


def _unguarded(parameter: Parameter, text: str) -> str:
    """A choice as the file that `katuna export` wrote means it."""
    return text[1:] if text.startswith(_FORMULA_GUARD) and text not in parameter.choices else text
