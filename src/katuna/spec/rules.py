"""What an Experiment must keep besides the shape of its fields: Katib's webhook and algorithm checks, and what no run survives.

Rules are generators of remarks over a defaulted, well-typed manifest. Paths and conditions are the webhook's (katib.md 1 and 4.1);
a rule that only a run here has says `on=LOCAL`. The trial template has its own file, template.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from katuna.errors import EVERYWHERE, LOCAL, Engine
from katuna.metrics.filters import compile_filter
from katuna.spec.algorithms import ALGORITHMS, EARLY_STOPPING, check_algorithm_name, check_settings
from katuna.spec.model import Parameter
from katuna.spec.remark import NUL, NUL_MESSAGE, Path, Remark, did_you_mean, listed, shown

SPEC: Path = ("spec",)
PARAMETER_TYPES = ("double", "int", "discrete", "categorical")
DISTRIBUTIONS = ("uniform", "logUniform", "normal", "logNormal")
STRATEGIES = ("min", "max", "latest")
RESUME_POLICIES = ("Never", "LongRunning", "FromVolume")
COLLECTORS = ("StdOut", "File", "TensorFlowEvent", "PrometheusMetric", "Custom", "Push")
COLLECTORS_HERE = ("StdOut",)
MAX_NAME = 40
MAX_INT = 2**53

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
_READABLE_METRIC = re.compile(r"[\w|-]+\Z", re.ASCII)
_TWO_GROUPS = re.compile(r".*\(.*\).*\(.*\).*", re.DOTALL)


def check_experiment(experiment: Mapping[str, Any]) -> Iterator[Remark]:
    """Every rule on a defaulted Experiment except those of its trial template."""
    spec = experiment["spec"]
    yield from _check_metadata(experiment.get("metadata", {}), spec.get("trialTemplate", {}).get("trialSpec", {}).get("kind"))
    yield from _check_objective(spec)
    yield from _check_counts(spec)
    yield from _check_space(spec)
    yield from _check_algorithm(spec)
    yield from _check_early_stopping(spec)
    yield from _check_collector(spec)
    if spec["resumePolicy"] not in RESUME_POLICIES:
        yield _one_of(("spec", "resumePolicy"), spec["resumePolicy"], RESUME_POLICIES)


def _one_of(path: Path, value: str, known: tuple[str, ...], **more: Any) -> Remark:
    meant = did_you_mean(value, known) if value else ""
    message = f"{shown(value)} is not known" if value else "must be specified"
    return Remark(path, message, f"did you mean {meant}?" if meant else f"one of: {listed(known)}", **more)


def _check_metadata(metadata: Mapping[str, Any], trial_kind: object) -> Iterator[Remark]:
    name = metadata.get("name", "")
    path: Path = ("metadata", "name")
    if not name and metadata.get("generateName"):
        yield Remark(("metadata", "generateName"), "a run here needs a name of its own", "write metadata.name", on=LOCAL)
    elif not name:
        yield Remark(path, "must be specified", "lower case letters, digits and '-'")
    elif not _SUBDOMAIN.match(name) or not name[0].isalpha():
        yield Remark(
            path, f"{shown(name)} must be lower case letters, digits and '-', begin with a letter and end with a letter or digit"
        )
    elif len(name) > MAX_NAME:
        yield Remark(path, f"{len(name)} characters are too long", f"at most {MAX_NAME}: trial names are made from it")
    elif "." in name and trial_kind == "PyTorchJob":
        yield Remark(
            path,
            "the operator refuses a PyTorchJob with a dot in its name, and trials are named after this",
            "use '-'",
            on=LOCAL,
        )


def _check_objective(spec: Mapping[str, Any]) -> Iterator[Remark]:
    objective, path = spec.get("objective"), (*SPEC, "objective")
    if objective is None:
        yield Remark(path, "must be specified", "type: minimize or maximize, objectiveMetricName: NAME")
        return
    kind, metric = objective.get("type", ""), objective.get("objectiveMetricName", "")
    if kind not in ("minimize", "maximize"):
        yield _one_of((*path, "type"), kind, ("minimize", "maximize"))
    additional = objective.get("additionalMetricNames", [])
    if not metric:
        yield Remark((*path, "objectiveMetricName"), "must be specified", "the name before = in the line that the trial prints")
    if metric and metric in additional:
        where = (*path, "additionalMetricNames", additional.index(metric))
        yield Remark(where, f"{metric} is the objective metric already", "leave it out here")
    seen: set[str] = set()
    for index, strategy in enumerate(objective["metricStrategies"]):
        name, value, where = strategy.get("name", ""), strategy.get("value", ""), (*path, "metricStrategies", index)
        if value not in STRATEGIES:
            yield _one_of((*where, "value"), value, STRATEGIES, on=LOCAL)
        if name in seen and name not in additional:
            yield Remark((*where, "name"), f"{shown(name)} has a strategy already", "keep one of the two", on=LOCAL)
        if name not in (metric, *additional):
            yield Remark((*where, "name"), f"{shown(name)} is neither the objective nor an additional metric", level="warning")
        seen.add(name)


def _check_counts(spec: Mapping[str, Any]) -> Iterator[Remark]:
    parallel, most, failed = (spec.get(name) for name in ("parallelTrialCount", "maxTrialCount", "maxFailedTrialCount"))
    if most is not None and most <= 0:
        yield Remark(("spec", "maxTrialCount"), f"must be greater than 0, not {most}")
    if failed is not None and failed < 0:
        yield Remark(("spec", "maxFailedTrialCount"), f"must not be less than 0, as {failed} is")
    if failed is not None and most is not None and failed > most:
        yield Remark(("spec", "maxFailedTrialCount"), f"{failed} must be less than or equal to spec.maxTrialCount, {most}")
    if parallel is not None and parallel <= 0:
        yield Remark(("spec", "parallelTrialCount"), f"must be greater than 0, not {parallel}")
    if parallel is not None and most is not None and parallel > most:
        message = f"{parallel} must be less than or equal to spec.maxTrialCount, {most}"
        yield Remark(("spec", "parallelTrialCount"), message, "3 when it is not written" if parallel == 3 else "")


def _check_space(spec: Mapping[str, Any]) -> Iterator[Remark]:
    parameters, nas = spec.get("parameters", []), spec.get("nasConfig")
    if not parameters and nas is None:
        yield Remark(
            ("spec", "parameters"),
            "must be specified: there is nothing to search",
            "a list of name, parameterType, feasibleSpace",
        )
    if parameters and nas is not None:
        yield Remark(("spec", "nasConfig"), "only one of spec.parameters and spec.nasConfig can be specified", at_key=True)
    if nas is not None:
        yield Remark(("spec", "nasConfig"), "neural architecture search does not run here", on=LOCAL, at_key=True)
    names: set[str] = set()
    for index, parameter in enumerate(parameters):
        path, name = (*SPEC, "parameters", index), parameter.get("name", "")
        if not name:
            yield Remark((*path, "name"), "must be specified")
        elif name in names:
            yield Remark((*path, "name"), f"{shown(name)} is a parameter already", "names must differ")
        names.add(name)
        yield from _check_parameter(parameter, path, (spec.get("algorithm") or {}).get("algorithmName", ""))


def _check_parameter(parameter: Mapping[str, Any], path: Path, algorithm: str) -> Iterator[Remark]:
    kind, space = parameter.get("parameterType", ""), parameter["feasibleSpace"]
    if kind not in PARAMETER_TYPES:
        yield _one_of((*path, "parameterType"), kind, PARAMETER_TYPES)
        return
    path = (*path, "feasibleSpace")
    if space["distribution"] not in DISTRIBUTIONS:
        yield _one_of((*path, "distribution"), space["distribution"], DISTRIBUTIONS)
    if kind in ("double", "int"):
        if "list" in space:
            yield Remark(
                (*path, "list"),
                f"{'an' if kind == 'int' else 'a'} {kind} has no list",
                "use min and max, or parameterType discrete",
                at_key=True,
            )
        yield from _check_range(space, kind, path, algorithm)
        return
    for name in ("min", "max", "step"):
        if name in space:
            yield Remark((*path, name), f"a {kind} parameter has no {name}", "it has a list", at_key=True)
    choices = space.get("list", [])
    if not choices:
        yield Remark((*path, "list"), "an empty feasible space: the list has no values", 'list: ["a", "b"]')
    for index, choice in enumerate(choices):
        if NUL in choice:
            yield Remark((*path, "list", index), f"{shown(choice)} {NUL_MESSAGE}")
    if len(set(choices)) < len(choices):
        yield Remark((*path, "list"), "a value is listed twice: it would be tried more often", level="warning")


def _check_range(space: Mapping[str, str], kind: str, path: Path, algorithm: str) -> Iterator[Remark]:
    numbers: dict[str, Decimal] = {}
    for name in ("min", "max", "step"):
        if name not in space:
            if name != "step":
                yield Remark((*path, name), f"must be specified for a {kind}", 'as text in quotes: "0.1"')
            continue
        value = _decimal(space[name])
        if value is None:
            yield Remark((*path, name), f"must be a number as text, not {shown(space[name])}")
        elif kind == "int" and value != value.to_integral_value():
            yield Remark((*path, name), f"must be a whole number for an int, not {shown(space[name])}", on=LOCAL)
        elif kind == "int" and abs(value) > MAX_INT:
            yield Remark((*path, name), f"must be between -2^53 and 2^53, not {shown(space[name])}", on=LOCAL)
        else:
            numbers[name] = value
    if numbers.get("step", 1) <= 0:
        yield Remark(
            (*path, "step"),
            f"must be greater than 0, not {shown(space['step'])}",
            on=EVERYWHERE if algorithm == "grid" else LOCAL,
        )
    if "min" not in numbers or "max" not in numbers:
        return
    if numbers["min"] > numbers["max"]:
        yield Remark(path, f"an empty feasible space: min {space['min']} is greater than max {space['max']}")
    elif numbers["min"] <= 0 and space["distribution"] in ("logUniform", "logNormal") and algorithm != "grid":
        yield Remark((*path, "min"), f"must be greater than 0 for {space['distribution']}, not {space['min']}")
    elif numbers.get("step", 0) > numbers["max"] - numbers["min"] > 0:
        yield Remark((*path, "step"), f"the step is larger than the range: only {space['min']} would be tried", level="warning")


def _decimal(text: str) -> Decimal | None:
    """A finite number in a range that a double can hold."""
    try:
        value = Decimal(text.strip()) if "_" not in text else None
    except InvalidOperation:
        return None
    return value if value is not None and value.is_finite() and abs(value) < Decimal("1e300") else None


def _check_algorithm(spec: Mapping[str, Any]) -> Iterator[Remark]:
    algorithm, path = spec.get("algorithm"), (*SPEC, "algorithm")
    if algorithm is None:
        yield Remark(path, "must be specified", "algorithmName: tpe")
        return
    name = algorithm.get("algorithmName", "")
    yield from check_algorithm_name(name, (*path, "algorithmName"))
    if name not in ALGORITHMS:
        return
    known = ALGORITHMS[name]
    yield from check_settings(algorithm.get("algorithmSettings", []), known.settings, name, (*path, "algorithmSettings"))
    parameters = [parameter_of(each) for each in spec.get("parameters", [])]
    if not any(remark.level == "error" for remark in _check_space(spec)):
        yield from known.space(parameters, spec.get("maxTrialCount"))


def parameter_of(parameter: Mapping[str, Any]) -> Parameter:
    space = parameter["feasibleSpace"]
    return Parameter(
        name=parameter.get("name", ""),
        type=parameter.get("parameterType", ""),
        minimum=space.get("min", "").strip(),
        maximum=space.get("max", "").strip(),
        step=space.get("step", "").strip(),
        choices=tuple(space.get("list", ())),
        distribution=space["distribution"],
    )


def _check_early_stopping(spec: Mapping[str, Any]) -> Iterator[Remark]:
    stopping, path = spec.get("earlyStopping"), (*SPEC, "earlyStopping")
    if stopping is None:
        return
    name = stopping.get("algorithmName", "")
    if name not in EARLY_STOPPING:
        yield _one_of((*path, "algorithmName"), name, tuple(EARLY_STOPPING))
        return
    yield from check_settings(stopping.get("algorithmSettings", []), EARLY_STOPPING[name], name, (*path, "algorithmSettings"))
    yield Remark(path, "early stopping is ignored here: every trial runs to its end", level="note", on=LOCAL, at_key=True)


def _check_collector(spec: Mapping[str, Any]) -> Iterator[Remark]:
    collector_spec, path = spec["metricsCollectorSpec"], (*SPEC, "metricsCollectorSpec")
    kind = collector_spec["collector"].get("kind", "")
    if kind not in COLLECTORS:
        yield _one_of((*path, "collector", "kind"), kind, COLLECTORS)
        return
    if kind == "PrometheusMetric":
        yield Remark(
            (*path, "collector", "kind"), "no Katib installation serves PrometheusMetric", f"here: {listed(COLLECTORS_HERE)}"
        )
    elif kind not in COLLECTORS_HERE:
        known = f"collectors here: {listed(COLLECTORS_HERE)}"
        yield Remark((*path, "collector", "kind"), f"the collector {kind} does not run here", known, on=LOCAL)
    source = collector_spec.get("source", {})
    yield from _check_source(kind, collector_spec, source, (*path, "source"))
    filters = source.get("filter", {}).get("metricsFormat", [])
    for index, text in enumerate(filters):
        yield from _check_filter(
            text, (*path, "source", "filter", "metricsFormat", index), LOCAL if kind == "StdOut" else EVERYWHERE
        )
    if kind == "StdOut" and not filters:
        yield from _check_metric_names(spec.get("objective") or {})


def _check_source(kind: str, collector_spec: Mapping[str, Any], source: Mapping[str, Any], path: Path) -> Iterator[Remark]:
    where: Path = (*path, "fileSystemPath")
    system = source.get("fileSystemPath", {})
    wanted = {"File": ("File",), "TensorFlowEvent": ("Directory",), "Custom": ("File", "Directory") if system else ()}.get(
        kind, ()
    )
    if wanted and system.get("kind") not in wanted:
        yield _one_of((*where, "kind"), system.get("kind", ""), wanted)
    if wanted and not system.get("path", "").startswith("/"):
        yield Remark((*where, "path"), f"must be an absolute path, not {shown(system.get('path', ''))}")
    if kind == "File" and system.get("format") not in ("TEXT", "JSON"):
        yield _one_of((*where, "format"), system.get("format", ""), ("TEXT", "JSON"))
    if kind == "File" and system.get("format") == "JSON" and "filter" in source:
        yield Remark((*path, "filter"), "there is no filter for the format JSON", "leave it out", at_key=True)
    if kind == "TensorFlowEvent" and "format" in system:
        yield Remark((*where, "format"), "must be empty for TensorFlowEvent", "leave it out", at_key=True)
    if kind == "Custom" and "customCollector" not in collector_spec["collector"]:
        yield Remark(("spec", "metricsCollectorSpec", "collector", "customCollector"), "must be specified for Custom")


def _check_filter(text: str, path: Path, on: tuple[Engine, ...]) -> Iterator[Remark]:
    """Katib compiles filters with Go's RE2; it looks at them only for collectors that read files, and StdOut fails later."""
    try:
        pattern = compile_filter(text)
    except ValueError as error:
        hint = "Go's syntax: no look-around, back-references or possessive repeats"
        yield Remark(path, f"not a regular expression: {error}", hint, on=on)
        return
    if not _TWO_GROUPS.match(text) or pattern.groups < 2:
        yield Remark(path, "needs two groups: the metric's name and its value", r"such as ([\w-]+)=([0-9.]+)", on=on)


def _check_metric_names(objective: Mapping[str, Any]) -> Iterator[Remark]:
    path: Path = ("spec", "objective")
    names = [(objective.get("objectiveMetricName", ""), (*path, "objectiveMetricName"))]
    names += [
        (name, (*path, "additionalMetricNames", index)) for index, name in enumerate(objective.get("additionalMetricNames", []))
    ]
    for name, where in names:
        if name and not _READABLE_METRIC.match(name):
            message = f"the default filter reads letters, digits, '_', '-' and '|': it never finds {shown(name)}"
            yield Remark(where, message, "rename the metric, or write metricsCollectorSpec.source.filter", level="warning")
