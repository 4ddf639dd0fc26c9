"""What an Experiment must keep besides the shape of its fields: Katib's webhook and algorithm checks, and what no run survives.

Rules are generators of remarks over a defaulted, well-typed manifest. Paths and conditions are the webhook's (katib.md 1); a rule
says in `on` which engines it holds for. Metrics collectors and the trial template have files of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import Any

from katuna.errors import CLUSTERS, EVERYWHERE, KATIB, KATUNA, Engine
from katuna.lint.collector_rules import check_collector
from katuna.manifest.algorithms import ALGORITHMS, GO_SERVICES, check_algorithm_name, is_go_number
from katuna.manifest.diagnostic import NUL, NUL_MESSAGE, Path, Remark, one_of, shown, unlike_katib
from katuna.manifest.experiment import Parameter
from katuna.manifest.names import GENERATED, is_label, is_subdomain
from katuna.manifest.settings import EARLY_STOPPING, check_settings

SPEC: Path = ("spec",)
PARAMETER_TYPES = ("double", "int", "discrete", "categorical")
DISTRIBUTIONS = ("uniform", "logUniform", "normal", "logNormal")
UNKNOWN = "unknown"
"""The webhook lets it through; a search cannot draw from it."""
STRATEGIES = ("min", "max", "latest")
RESUME_POLICIES = ("Never", "LongRunning", "FromVolume")
MAX_NAME = 40
MAX_INT = 2**53
MAX_REAL = Decimal("1e300")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?\Z")


def check_experiment(experiment: Mapping[str, Any]) -> Iterator[Remark]:
    """Every rule on a defaulted Experiment except those of its trial template."""
    spec = experiment["spec"]
    yield from _check_metadata(experiment.get("metadata", {}), spec.get("trialTemplate", {}).get("trialSpec", {}).get("kind"))
    yield from _check_objective(spec)
    yield from _check_counts(spec)
    yield from _check_space(spec)
    yield from _check_algorithm(spec)
    yield from _check_early_stopping(spec)
    yield from check_collector(spec)
    if spec["resumePolicy"] not in RESUME_POLICIES:
        yield one_of(("spec", "resumePolicy"), spec["resumePolicy"], RESUME_POLICIES)


def _check_metadata(metadata: Mapping[str, Any], trial_kind: object) -> Iterator[Remark]:
    name = metadata.get("name", "")
    path: Path = ("metadata", "name")
    if not name and metadata.get("generateName"):
        path, name = ("metadata", "generateName"), metadata["generateName"]
        yield from _check_name(name, path, MAX_NAME - GENERATED, f"{name}x")
    elif not name:
        yield Remark(path, "must be specified", "lower case letters, digits and '-'", code="missing-field")
    else:
        yield from _check_name(name, path, MAX_NAME, name)
    if "." in name and trial_kind == "PyTorchJob":
        message = "the operator refuses a PyTorchJob with a dot in its name, and trials are named after this"
        yield Remark(path, message, "use '-'", on=KATUNA, code="dot-in-name")
    namespace = metadata.get("namespace", "")
    if namespace and not is_label(namespace):
        message = f"{shown(namespace)} must be lower case letters, digits and '-', at most 63"
        yield Remark(("metadata", "namespace"), message, code="bad-name", on=CLUSTERS)
    for table in ("labels", "annotations"):
        for key in metadata.get(table, {}):
            if not _is_qualified(key if table == "labels" else key.lower()):
                message = (
                    f"{shown(key)} is not a key: at most 63 letters, digits, '-', '_' and '.', after a DNS name and '/' if any"
                )
                yield Remark(("metadata", table, key), message, at_key=True, code="bad-label", on=CLUSTERS)
    for key, value in metadata.get("labels", {}).items():
        if not _LABEL_VALUE.match(value):
            message = f"{shown(value)} is not a label's value: at most 63 letters, digits, '-', '_' and '.'"
            yield Remark(("metadata", "labels", key), message, code="bad-label", on=CLUSTERS)


def _is_qualified(key: str) -> bool:
    """Whether Kubernetes takes the key of a label."""
    prefix, slash, name = key.rpartition("/")
    return bool(name and _LABEL_VALUE.match(name)) and (not slash or (is_subdomain(prefix) and len(prefix) <= 253))


def _check_name(name: str, path: Path, limit: int, whole: str) -> Iterator[Remark]:
    """`whole` is the name as it will be."""
    if not is_subdomain(whole) or not name[0].isalpha():
        rule = "must be lower case letters, digits and '-', begin with a letter and end with a letter or digit"
        yield Remark(path, f"{shown(name)} {rule}", code="bad-name")
    elif len(name) > limit:
        hint = f"at most {limit}: trial names are made from it"
        yield Remark(path, f"{len(name)} characters are too long", hint, code="name-too-long")


def _check_objective(spec: Mapping[str, Any]) -> Iterator[Remark]:
    objective, path = spec.get("objective"), (*SPEC, "objective")
    if objective is None:
        yield Remark(path, "must be specified", "type: minimize or maximize, objectiveMetricName: NAME", code="missing-field")
        return
    kind, metric = objective.get("type", ""), objective.get("objectiveMetricName", "")
    if kind not in ("minimize", "maximize"):
        yield one_of((*path, "type"), kind, ("minimize", "maximize"))
    additional = objective.get("additionalMetricNames", [])
    if not metric:
        hint = "the name before = in the line that the trial prints"
        yield Remark((*path, "objectiveMetricName"), "must be specified", hint, code="missing-field")
    if metric and metric in additional:
        where = (*path, "additionalMetricNames", additional.index(metric))
        yield Remark(where, f"{metric} is the objective metric already", "leave it out here", code="repeated-metric")
    for index in (index for index, name in enumerate(additional) if not name):
        message = "an empty name: nobody collects such a metric"
        yield Remark((*path, "additionalMetricNames", index), message, "leave it out", "warning", code="missing-field")
    yield from _check_strategies(objective, (metric, *additional), (*path, "metricStrategies"))


def _check_strategies(objective: Mapping[str, Any], metrics: tuple[str, ...], path: Path) -> Iterator[Remark]:
    first: dict[str, str] = {}
    for index, strategy in enumerate(objective["metricStrategies"]):
        name, value, where = strategy.get("name", ""), strategy.get("value", ""), (*path, index)
        if value not in STRATEGIES:
            there = "then counts the metric as unavailable: no trial is ever the best"
            yield from unlike_katib(one_of((*where, "value"), value, STRATEGIES), there)
        if first.setdefault(name, value) != value:
            message = f"{shown(name)} has the strategy {shown(first[name])} already, which counts"
            yield Remark((*where, "name"), message, "keep one of the two", "warning", code="repeated-metric")
        if name not in metrics:
            message = f"{shown(name)} is neither the objective nor an additional metric: nobody collects it"
            yield Remark((*where, "name"), message, level="warning", code="unused-strategy")


def _check_counts(spec: Mapping[str, Any]) -> Iterator[Remark]:
    parallel, most, failed = (spec.get(name) for name in ("parallelTrialCount", "maxTrialCount", "maxFailedTrialCount"))
    if most is not None and most <= 0:
        yield Remark(("spec", "maxTrialCount"), f"must be greater than 0, not {most}", code="out-of-range")
    if failed is not None and failed < 0:
        yield Remark(("spec", "maxFailedTrialCount"), f"must not be less than 0, as {failed} is", code="out-of-range")
    if failed is not None and most is not None and failed > most:
        message = f"{failed} must be less than or equal to spec.maxTrialCount, {most}"
        yield Remark(("spec", "maxFailedTrialCount"), message, code="more-than-max")
    if parallel is not None and parallel <= 0:
        yield Remark(("spec", "parallelTrialCount"), f"must be greater than 0, not {parallel}", code="out-of-range")
    if parallel is not None and most is not None and parallel > most:
        message = f"{parallel} must be less than or equal to spec.maxTrialCount, {most}"
        hint = "3 when it is not written" if parallel == 3 else ""
        yield Remark(("spec", "parallelTrialCount"), message, hint, code="more-than-max")


def _check_space(spec: Mapping[str, Any]) -> Iterator[Remark]:
    parameters, nas = spec.get("parameters", []), spec.get("nasConfig")
    if not parameters and nas is None:
        message, hint = "must be specified: there is nothing to search", "a list of name, parameterType, feasibleSpace"
        yield Remark(("spec", "parameters"), message, hint, code="missing-field")
    if parameters and nas is not None:
        message = "only one of spec.parameters and spec.nasConfig can be specified"
        yield Remark(("spec", "nasConfig"), message, at_key=True, code="one-of-two")
    names: set[str] = set()
    for index, parameter in enumerate(parameters):
        path, name = (*SPEC, "parameters", index), parameter.get("name", "")
        if not name:
            yield Remark((*path, "name"), "must be specified", code="missing-field")
        elif name in names:
            message = f"{shown(name)} is a parameter already: no trial would ever start"
            yield Remark((*path, "name"), message, "names must differ", code="repeated-parameter")
        names.add(name)
        yield from _check_parameter(parameter, path, _algorithm(spec))


def _algorithm(spec: Mapping[str, Any]) -> str:
    name: str = (spec.get("algorithm") or {}).get("algorithmName", "")
    return name


def _check_parameter(parameter: Mapping[str, Any], path: Path, algorithm: str) -> Iterator[Remark]:
    kind, space = parameter.get("parameterType", ""), parameter["feasibleSpace"]
    if kind not in PARAMETER_TYPES:
        yield one_of((*path, "parameterType"), kind, PARAMETER_TYPES)
        return
    path = (*path, "feasibleSpace")
    if space["distribution"] not in DISTRIBUTIONS:
        remark = one_of((*path, "distribution"), space["distribution"], DISTRIBUTIONS)
        read = kind in ("double", "int") and algorithm in _READING_DISTRIBUTIONS
        yield remark if read or space["distribution"] != UNKNOWN else replace(remark, on=KATUNA)
    if kind in ("double", "int"):
        if "list" in space:
            message, hint = f"{'an' if kind == 'int' else 'a'} {kind} has no list", "use min and max, or parameterType discrete"
            yield Remark((*path, "list"), message, hint, at_key=True, code="field-of-another-type")
        yield from _check_range(space, kind, path, algorithm)
        return
    for name in ("min", "max", "step"):
        if name in space:
            message = f"a {kind} parameter has no {name}"
            yield Remark((*path, name), message, "it has a list", at_key=True, code="field-of-another-type")
    choices = space.get("list", [])
    if not choices:
        message = "an empty feasible space: the list has no values"
        yield Remark((*path, "list"), message, 'list: ["a", "b"]', code="empty-list")
    listed_before: set[str] = set()
    for index, choice in enumerate(choices):
        if NUL in choice:
            yield Remark((*path, "list", index), f"{shown(choice)} {NUL_MESSAGE}", code="nul")
        if choice in listed_before:
            message = f"{shown(choice)} is listed twice: it would be tried more often"
            yield Remark((*path, "list", index), message, "leave one out", "warning", code="repeated-value")
        listed_before.add(choice)


_READING_DISTRIBUTIONS = ("random", "tpe", "multivariate-tpe", "grid")
"""Fail for a distribution of a number that they do not know; the others draw as they always do."""

_STRICT_INTS = ("grid", "multivariate-tpe", "bayesianoptimization", "cmaes", "sobol")
"""Read a bound of an int with Python's int or Go's Atoi, which take no point and no exponent."""

_STRICT_STEPS = ("grid", "multivariate-tpe", "pbt")
"""Fail for a step that is not greater than 0."""

_DIVIDING = ("random", "tpe", "cmaes", "sobol")
"""Divide by the step: for an int and a step of 0 they fail, for a double they give no number."""

_LOGARITHMS = ("random", "tpe")
"""Take the logarithm of min as it is."""


def _check_range(space: Mapping[str, str], kind: str, path: Path, algorithm: str) -> Iterator[Remark]:
    for name in ("min", "max"):
        if name not in space:
            message = f"min and max must be specified for a {kind}, and {name} is not"
            yield Remark((*path, "max"), message, 'as text in quotes: "0.1"', code="missing-field", about=(*path, name))
    numbers: dict[str, Decimal] = {}
    for name in ("min", "max", "step"):
        if name in space:
            value = decimal(space[name])
            if value is None:
                message = f"must be a number as text, not {shown(space[name])}"
                yield Remark((*path, name), message, code="not-a-number")
            else:
                numbers[name] = value
                yield from _check_number(value, space[name], kind, (*path, name), algorithm)
    step = numbers.get("step")
    if step is not None and step <= 0:
        remark = Remark((*path, "step"), f"must be greater than 0, not {shown(space['step'])}", code="step-not-positive")
        if algorithm in _STRICT_STEPS or (kind == "int" and step == 0 and algorithm in _DIVIDING):
            yield remark
        else:
            yield from unlike_katib(remark, "then draws values that are not meant")
    if "min" in numbers and "max" in numbers:
        yield from _check_order(numbers, space, path, algorithm)


def _check_number(value: Decimal, text: str, kind: str, path: Path, algorithm: str) -> Iterator[Remark]:
    if algorithm in GO_SERVICES and not is_go_number(text):
        message = f"Katib's {algorithm} reads numbers without blanks and '_', in the digits 0 to 9: not {shown(text)}"
        yield Remark(path, message, f'write "{value}"', on=KATIB, code="not-a-number")
        return
    if kind == "double" or value == value.to_integral_value():
        if abs(value) >= (MAX_INT if kind == "int" else MAX_REAL):
            bounds = "-2^53 and 2^53" if kind == "int" else f"-{MAX_REAL} and {MAX_REAL}"
            yield Remark(path, f"must be between {bounds}, not {shown(text)}", on=KATUNA, code="out-of-range")
        if kind == "int" and algorithm in _STRICT_INTS and not _is_plain_int(text):
            message = f"Katib's {algorithm} reads a bound of an int without point and exponent, not {shown(text)}"
            yield Remark(path, message, f'write "{int(value)}"' if abs(value) < MAX_INT else "", on=KATIB, code="not-whole")
        return
    remark = Remark(path, f"must be a whole number for an int, not {shown(text)}", code="not-whole")
    if algorithm in _STRICT_INTS:
        yield remark
    else:
        yield from unlike_katib(remark, "draws between such bounds and cuts values off to whole numbers")


def _is_plain_int(text: str) -> bool:
    return text.strip().lstrip("+-").replace("_", "").isdecimal()


def _check_order(numbers: Mapping[str, Decimal], space: Mapping[str, str], path: Path, algorithm: str) -> Iterator[Remark]:
    low, high = numbers["min"], numbers["max"]
    if low > high:
        message = f"an empty feasible space: min {space['min']} is greater than max {space['max']}"
        yield Remark(path, message, code="min-above-max")
    elif low <= 0 and space["distribution"] in ("logUniform", "logNormal"):
        message = f"must be greater than 0 for {space['distribution']}, not {space['min']}"
        on: tuple[Engine, ...] = KATUNA if algorithm in ALGORITHMS and algorithm not in _LOGARITHMS else EVERYWHERE
        if algorithm == "grid":
            # A search here steps over the range as it is; Katib's service fails.
            message, on = f"{message}: no trial would ever start", KATIB
        yield Remark((*path, "min"), message, on=on, code="log-of-zero")
    elif float(high) - float(low) == float("inf"):
        yield Remark(path, "the range is wider than a floating point number can be", code="out-of-range")
    elif numbers.get("step", Decimal(0)) > high - low > 0:
        message = f"the step is larger than the range: only {space['min']} would be tried"
        yield Remark((*path, "step"), message, level="warning", code="step-above-range")


def decimal(text: str) -> Decimal | None:
    """A number that a floating point number can hold."""
    try:
        value = Decimal(text.strip())
        float(text)
    except (InvalidOperation, ValueError):
        return None
    return value if value.is_finite() and abs(value) < Decimal("1.7e308") else None


def usable(parameter: Mapping[str, Any]) -> bool:
    """Whether the feasible space is one that values can be drawn from: what rules about its size may build on."""
    space, kind = parameter["feasibleSpace"], parameter.get("parameterType")
    if kind in ("discrete", "categorical"):
        return bool(space.get("list"))
    low, high, step = (decimal(space.get(name, default)) for name, default in (("min", ""), ("max", ""), ("step", "1")))
    if kind not in ("double", "int") or low is None or high is None or step is None:
        return False
    whole = kind == "double" or all(each == each.to_integral_value() for each in (low, high, step))
    return whole and low <= high and step > 0 and max(abs(low), abs(high), step) < MAX_REAL


def _check_algorithm(spec: Mapping[str, Any]) -> Iterator[Remark]:
    algorithm, path = spec.get("algorithm"), (*SPEC, "algorithm")
    if algorithm is None:
        yield Remark(path, "must be specified", "algorithmName: tpe", code="missing-field")
        return
    name = algorithm.get("algorithmName", "")
    yield from check_algorithm_name(name, (*path, "algorithmName"))
    if name not in ALGORITHMS:
        return
    parameters = spec.get("parameters", [])
    drawable = [parameter_of(each) for each in parameters] if all(map(usable, parameters)) else []
    yield from ALGORITHMS[name].check(name, drawable, spec)


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
        yield one_of((*path, "algorithmName"), name, tuple(EARLY_STOPPING))
        return
    yield from check_settings(stopping.get("algorithmSettings", []), EARLY_STOPPING[name], name, (*path, "algorithmSettings"))
