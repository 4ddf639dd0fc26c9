"""Results from elsewhere that a search begins with: which of another run's trials, or of a table's rows, it can use."""

from __future__ import annotations

import csv
import io
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from katuna.errors import InputRefused, RunNotFound
from katuna.manifest.diagnostic import listed
from katuna.manifest.experiment import Experiment, Objective, Parameter
from katuna.metric_line import number
from katuna.runs import rundir
from katuna.runs.run import searched
from katuna.search.known_points import Taken, normal
from katuna.search.trials import Known


@dataclass(frozen=True)
class Row:
    """Where it stands, parameter names to texts, and the objective metric's text; or why the row cannot be read."""

    place: str
    texts: Mapping[str, str]
    result: str
    damage: str = ""


@dataclass(frozen=True)
class Rows:
    rows: Iterator[Row]
    warning: str = ""


_FORMULA_GUARD = ("'=", "'+", "'-", "'@", "'\t", "'\n")
"""How a text begins that `katuna export` has kept from being a spreadsheet's formula."""


def taken_from(experiment: Experiment, sources: Sequence[str], home: Path | None = None) -> tuple[Taken, ...]:
    """What the search can use of each source, a CSV file or a run by name, prefix or path.

    Raises InputRefused for a source that is neither, that lacks a parameter, that was a search for something else, or of which
    nothing can be used.
    """
    return tuple(_taken(experiment, source, home) for source in sources)


def _taken(experiment: Experiment, source: str, home: Path | None) -> Taken:
    found = _table(experiment, Path(source)) if Path(source).is_file() else Rows(_rows_of_run(experiment, source, home))
    at = time.time()
    known: list[Known] = []
    left_out: Counter[str] = Counter()
    outside: list[str] = []
    for row in found.rows:
        value = number(row.result.strip())
        if row.damage or value is None:
            left_out[row.damage or f"without a number for {experiment.objective.metric}"] += 1
            continue
        point = {parameter.name: normal(parameter, row.texts[parameter.name]) for parameter in experiment.parameters}
        strange = [f"{name}={row.texts[name]}" for name, text in point.items() if text is None]
        if strange:
            outside.append(f"{row.place}: {listed(strange)}")
        else:
            whole = {name: text for name, text in point.items() if text is not None}
            known.append(Known(at, MappingProxyType(whole), value, source))
    if outside:
        left_out[f"outside the space (first {outside[0]})"] = len(outside)
    taken = Taken(source, tuple(known), left_out, found.warning)
    if not known:
        raise InputRefused(f"--warm-start {taken}" if left_out else f"--warm-start {source}: there is no result in it")
    return taken


def _rows_of_run(experiment: Experiment, source: str, home: Path | None) -> Iterator[Row]:
    try:
        run = searched(rundir.find(source, home))
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
        yield Row(f"trial {trial.number}", trial.assignments, "" if value is None else repr(value))


def _aim(objective: Objective) -> str:
    return f"{objective.type.value} {objective.metric}"


def _table(experiment: Experiment, path: Path) -> Rows:
    """The rows of a CSV file."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        records = csv.reader(io.StringIO(text, newline=""))
        read = [(records.line_num, record) for record in records if record]
    except UnicodeDecodeError as error:
        raise InputRefused(f"--warm-start {path}: not UTF-8 text (byte {error.start}); is it a CSV file?") from None
    except csv.Error as error:
        raise InputRefused(f"--warm-start {path}: no CSV file: {error}") from None
    except OSError as error:
        raise InputRefused(f"--warm-start {path}: {error.strerror or error}") from None
    header = [name.strip() for name in read[0][1]] if read else []
    repeated = [name for name, times in Counter(header).items() if times > 1 and name]
    if repeated:
        raise InputRefused(f"--warm-start {path}: more than one column is named {listed(repeated)}; which one is meant?")
    prefix, result = _columns(header, experiment.objective.metric, path)
    _must_have(experiment, [name.removeprefix(prefix) for name in header if name.startswith(prefix)], str(path))
    whole = [(line, dict(zip(header, record, strict=True))) for line, record in read[1:] if len(record) == len(header)]
    warning = _check_aim(experiment, [row for _, row in whole], prefix, path)
    used = {result, *(prefix + parameter.name for parameter in experiment.parameters)}
    cut = read[-1][0] if read and not text.endswith(("\n", "\r")) and header[-1] in used else 0

    def rows() -> Iterator[Row]:
        for _ in range(len(read) - 1 - len(whole)):
            yield Row("", {}, "", f"with more or fewer fields than the {len(header)} of the header")
        for line, row in whole:
            texts = {parameter.name: _unguarded(parameter, row[prefix + parameter.name]) for parameter in experiment.parameters}
            damage = "on a last line without an end, which may be cut off" if line == cut else ""
            yield Row(f"line {line}", texts, row[result], damage)

    return Rows(rows(), warning)


def _check_aim(experiment: Experiment, rows: Sequence[Mapping[str, str]], prefix: str, path: Path) -> str:
    """Refuses results of a search in the other direction, where the table says so; a warning for values picked by another strategy."""
    objective = experiment.objective
    own = {prefix + parameter.name for parameter in experiment.parameters}
    types, strategies = (
        dict.fromkeys(row.get(name, "").strip() for row in rows if name not in own)
        for name in ("objective_type", "objective_strategy")
    )
    other = [each for each in types if each not in ("", objective.type.value)]
    if other:
        raise InputRefused(
            f"--warm-start {path}: those results are of a search to {other[0]} {objective.metric}, this one is to {_aim(objective)}; "
            "only results of the same aim can be used"
        )
    picked = [each for each in strategies if each not in ("", objective.strategy)]
    if not picked:
        return ""
    return f"{path}: its values are the {picked[0]} of what each trial reported, this search compares the {objective.strategy}"


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
