"""What an Experiment is accepted with and then does not do as the file says: the traps of Katib, and of a search (all warnings).

A good file has none of these. `spec` is a defaulted Experiment's; what the file itself wrote is told apart by `written`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from katuna.errors import EVERYWHERE, KATIB, KATUNA, Engine
from katuna.lint.collector_rules import FILE_SYSTEM, READS_TEXT, SOURCE
from katuna.lint.experiment_rules import parameter_of, usable
from katuna.manifest.diagnostic import Path, Remark, listed, shown
from katuna.manifest.experiment import Parameter
from katuna.manifest.template import TEMPLATE
from katuna.metrics.filters import cuts

MODEL_BASED = {"tpe": "", "multivariate-tpe": "n_startup_trials", "bayesianoptimization": "n_initial_points"}
"""Algorithms that draw their first trials at random, and the setting that says how many."""
START_UP = 10
DECADES = 100
"""max over min above which a learning rate wants a logarithmic scale."""
MAX_PBT_NAME = 26
"""Katib's pbt names trials `<experiment>-<36 characters>`, and a label's value has at most 63."""

_LEARNING_RATE = re.compile(r"(^|_)(lr|learning_?rate|step_?size)\d*($|_)")
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+")
_READABLE_METRIC = re.compile(r"[\w|-]+\Z", re.ASCII)
_CONDITION_TYPE = re.compile(r'type\s*={1,2}\s*"([^"]*)"')
_OPERATOR_CONDITIONS = ("Created", "Running", "Restarting", "Suspended", "Succeeded", "Failed")
_CONDITIONS = {
    "Job": ("Complete", "Failed", "Suspended", "SuccessCriteriaMet", "FailureTarget"),
    "TrainJob": ("Complete", "Failed", "Suspended"),
    **dict.fromkeys(("PyTorchJob", "TFJob", "MPIJob", "XGBoostJob"), _OPERATOR_CONDITIONS),
}
"""The types of conditions that each kind's status has."""


def check_traps(spec: Mapping[str, Any], written: Mapping[str, Any], name: str) -> Iterator[Remark]:
    """`name` is the Experiment's; `written` is the file's own spec."""
    algorithm = (spec.get("algorithm") or {}).get("algorithmName", "")
    yield from _check_names(algorithm, name)
    yield from _check_budget(spec, algorithm)
    yield from _check_scales(spec, algorithm, written)
    yield from _check_early_stopping(spec)
    yield from _check_collected(spec, written)
    yield from _check_conditions(spec.get("trialTemplate", {}))


def _check_names(algorithm: str, name: str) -> Iterator[Remark]:
    path: Path = ("metadata", "name")
    if "." in name:
        message = (
            f"{shown(name)} has a dot, which the Service of Katib's suggestions cannot have in its name: it never gets ready"
        )
        yield Remark(path, message, "use '-'", "warning", KATIB, code="dot-in-name")
    if algorithm == "pbt" and len(name) > MAX_PBT_NAME:
        message = f"{len(name)} characters are too long: Katib's pbt adds 37 for its trials' names, and a label takes 63"
        yield Remark(path, message, f"at most {MAX_PBT_NAME} with pbt", "warning", KATIB, code="name-too-long")


def _check_budget(spec: Mapping[str, Any], algorithm: str) -> Iterator[Remark]:
    most, parallel = spec.get("maxTrialCount"), spec.get("parallelTrialCount") or 0
    path: Path = ("spec", "maxTrialCount")
    parameters = spec.get("parameters", [])
    if most is None and algorithm != "grid" and (spec.get("objective") or {}).get("goal") is None:
        message = "with neither this nor spec.objective.goal the search never ends by itself"
        yield Remark(path, message, "write how many trials are enough", "warning", code="no-end")
    if algorithm == "grid" and most is not None and parameters and all(map(usable, parameters)):
        size = math.prod(parameter_of(each).size for each in parameters)
        if not math.isinf(size) and most < size:
            message = f"{most} trials are not the whole grid of {int(size)} combinations: the others are left out, at random"
            yield Remark(path, message, f"write {int(size)} to try all", "warning", code="grid-above-budget")
    start_up, on = _start_up(spec, algorithm)
    if start_up and most is not None and most <= start_up:
        message = f"all {most} trials are drawn at random: {algorithm} learns from the first {start_up} before it suggests"
        yield Remark(path, message, "allow more trials, or use random", "warning", on, code="budget-within-start-up")
    elif start_up and parallel >= start_up:
        message = f"{parallel} trials at a time are asked for before the {start_up} that {algorithm} starts with are known"
        yield Remark(
            ("spec", "parallelTrialCount"), message, f"less than {start_up}", "warning", on, code="parallel-above-start-up"
        )


def _start_up(spec: Mapping[str, Any], algorithm: str) -> tuple[int, tuple[Engine, ...]]:
    """How many trials the algorithm draws at random first, 0 for one that does not; Katib's tpe learns from its first batch on."""
    if algorithm not in MODEL_BASED:
        return 0, EVERYWHERE
    settings = {each.get("name"): each.get("value", "") for each in spec["algorithm"].get("algorithmSettings", [])}
    text = settings.get(MODEL_BASED[algorithm], str(START_UP))
    return int(text) if text.isdecimal() else 0, KATUNA if algorithm == "tpe" else EVERYWHERE


def _check_scales(spec: Mapping[str, Any], algorithm: str, written: Mapping[str, Any]) -> Iterator[Remark]:
    for index, parameter in enumerate(spec.get("parameters", [])):
        if parameter.get("parameterType") not in ("double", "int") or not usable(parameter):
            continue
        path: Path = ("spec", "parameters", index, "feasibleSpace")
        known = parameter_of(parameter)
        yield from _check_learning_rate(known, path, algorithm)
        if algorithm == "bayesianoptimization" and known.type == "double":
            yield from _check_log_scale(known, path, chosen=_has(written, (*path, "distribution")[1:]))


def _has(written: Any, path: Path) -> bool:
    """Whether the file itself wrote the field; `path` begins at `written`, whose shape nobody has checked."""
    for part in path:
        try:
            written = written[part]
        except (KeyError, IndexError, TypeError):
            return False
    return bool(written)


def _check_log_scale(parameter: Parameter, path: Path, *, chosen: bool) -> Iterator[Remark]:
    """Katib's bayesianoptimization knows no other: worth a word where the file asks for one, or where it makes a difference."""
    low, high = Decimal(parameter.minimum), Decimal(parameter.maximum)
    if 0 < low < high and parameter.distribution != "logUniform" and (chosen or high > low * DECADES):
        message = f"Katib's bayesianoptimization draws every double on a log scale, not {parameter.distribution}"
        hint = "write distribution: logUniform, or use another algorithm"
        yield Remark((*path, "distribution"), message, hint, "warning", KATIB, code="distribution-ignored")


def _check_learning_rate(parameter: Parameter, path: Path, algorithm: str) -> Iterator[Remark]:
    """Not for pbt, which multiplies; Katib's bayesianoptimization has a logarithmic scale whatever the file says."""
    name = "_".join(_WORD.split(parameter.name)).lower()
    low, high = Decimal(parameter.minimum), Decimal(parameter.maximum)
    if parameter.type != "double" or not _LEARNING_RATE.search(name) or parameter.distribution != "uniform" or algorithm == "pbt":
        return
    if low >= 0 and high > low * DECADES:
        span = "from 0" if low == 0 else "over more than two decades"
        message = f"{shown(parameter.name)} is drawn on a linear scale {span}: nine of ten values lie above {high / 10:g}"
        hint = (
            'a discrete list such as ["0.001", "0.01", "0.1"]'
            if algorithm == "grid"
            else "distribution: logUniform, and min above 0"
        )
        on = KATUNA if algorithm == "bayesianoptimization" else EVERYWHERE
        yield Remark((*path, "distribution"), message, hint, "warning", on, code="linear-learning-rate")


def _check_early_stopping(spec: Mapping[str, Any]) -> Iterator[Remark]:
    stopping, path = spec.get("earlyStopping"), ("spec", "earlyStopping")
    if stopping is None or stopping.get("algorithmName") != "medianstop":
        return
    kind = spec["metricsCollectorSpec"]["collector"].get("kind", "")
    if kind not in READS_TEXT:
        message = f"Katib stops no trial early with the collector {kind}: it looks at StdOut and File alone"
        if kind == "TensorFlowEvent":
            message = "Katib's TensorFlowEvent collector fails when trials have rules for stopping: no metric is read"
        hint = "use StdOut or File, or leave earlyStopping out"
        yield Remark(path, message, hint, "warning", KATIB, at_key=True, code="unseen-by-early-stopping")
    elif not spec.get("trialTemplate", {}).get("retain"):
        message = "without it Katib loses the metrics of each trial that is stopped early, and the search hangs"
        yield Remark((*TEMPLATE, "retain"), message, "retain: true", "warning", KATIB, code="retain-with-early-stopping")
    settings = {each.get("name"): each.get("value", "") for each in stopping.get("algorithmSettings", [])}
    least = settings.get("min_trials_required", "3")
    most, parallel = spec.get("maxTrialCount"), spec.get("parallelTrialCount") or 1
    if least.isdecimal() and most is not None and most < int(least) + parallel:
        message = f"no trial is ever stopped: when {least} have succeeded, all {most} have been started already"
        yield Remark(path, message, "more trials, or fewer at a time", "warning", at_key=True, code="early-stopping-too-late")


def _check_collected(spec: Mapping[str, Any], written: Mapping[str, Any]) -> Iterator[Remark]:
    collector, objective = spec["metricsCollectorSpec"], spec.get("objective") or {}
    kind, source = collector["collector"].get("kind", ""), collector.get("source", {})
    filters = source.get("filter", {}).get("metricsFormat", [])
    metrics: list[tuple[str, Path]] = [(objective.get("objectiveMetricName", ""), ("spec", "objective", "objectiveMetricName"))]
    for index, name in enumerate(objective.get("additionalMetricNames", [])):
        metrics.append((name, ("spec", "objective", "additionalMetricNames", index)))
    by_default = kind in READS_TEXT and not filters and source.get("fileSystemPath", {}).get("format") != "JSON"
    for name, path in metrics if by_default else ():
        if name and not _READABLE_METRIC.match(name):
            message = f"the default filter reads letters, digits, '_', '-' and '|': it never finds {shown(name)}"
            hint = "rename the metric, or write metricsCollectorSpec.source.filter"
            yield Remark(path, message, hint, "warning", code="unreadable-metric")
    written_filters: list[tuple[str, Path]] = [(text, (*SOURCE, "filter", "metricsFormat", n)) for n, text in enumerate(filters)]
    for text, path in written_filters if kind in READS_TEXT else ():
        if cut := cuts(text):
            message = f"its second group reads only a part of a number: {cut[0]} becomes {cut[1]}, or is not found"
            hint = "one that reads all: ([+-]?[0-9.]+([eE][+-]?[0-9]+)?)"
            yield Remark(path, message, hint, "warning", code="number-cut-short")
    for text, path in (*metrics, *written_filters):
        if ";" in text:
            message = "Katib joins names and filters by ';' and splits them there: this one falls in two"
            yield Remark(path, message, "write it without ';'", "warning", KATIB, code="semicolon")
    yield from _check_unread_source(kind, written.get("metricsCollectorSpec"))


def _check_unread_source(kind: str, written: object) -> Iterator[Remark]:
    """Fields of `source` that the collector does not look at."""
    source = written.get("source") if isinstance(written, dict) else None
    if not isinstance(source, dict):
        return
    read = {
        "StdOut": ("filter",),
        "File": ("filter", "fileSystemPath"),
        "TensorFlowEvent": ("fileSystemPath",),
        "PrometheusMetric": ("httpGet",),
        "Push": (),
    }.get(kind, tuple(source))
    for name in ("filter", "fileSystemPath", "httpGet"):
        if source.get(name) and name not in read:
            path = FILE_SYSTEM if name == "fileSystemPath" else (*SOURCE, name)
            message = f"the collector {kind} does not look at it"
            yield Remark(path, message, "leave it out, or change the kind", "warning", at_key=True, code="ignored-field")


def _check_conditions(template: Mapping[str, Any]) -> Iterator[Remark]:
    """Katib takes any text; a condition that never holds leaves the trial Running for ever."""
    kind = template.get("trialSpec", {}).get("kind")
    known = _CONDITIONS.get(kind, ()) if isinstance(kind, str) else ()
    texts = {name: template.get(name, "") for name in ("successCondition", "failureCondition")}
    for name, text in texts.items():
        if not text:
            continue
        strange = [each for each in _CONDITION_TYPE.findall(text) if known and each not in known]
        problem = ""
        if "status" not in text:
            problem = "it does not look at the job's status"
        elif any(text.count(left) != text.count(right) for left, right in ("()", "[]", "{}")) or text.count('"') % 2:
            problem = "brackets or quotes are not closed"
        elif strange:
            problem = f"a {kind} has no condition {shown(strange[0])}, but {listed(known)}"
        if problem:
            message = f"would never hold, and trials would run for ever: {problem}"
            hint = (
                "leave it out for the default" if known else 'such as status.conditions.#(type=="Complete")#|#(status=="True")#'
            )
            yield Remark((*TEMPLATE, name), message, hint, "warning", KATIB, code="condition-never-true")
    if texts["successCondition"] and texts["successCondition"] == texts["failureCondition"]:
        message = "equals successCondition and is looked at first: every trial would fail"
        yield Remark((*TEMPLATE, "failureCondition"), message, level="warning", on=KATIB, code="condition-never-true")
