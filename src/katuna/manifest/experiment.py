"""The Experiment as a typed, frozen value; knows no YAML library, no Optuna and no Kubernetes client."""

from __future__ import annotations

import copyreg
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from enum import Enum
from types import MappingProxyType
from typing import Any, Literal

Manifest = Mapping[str, Any]
"""A Kubernetes object as plain JSON values: dict, list, str, int, float, bool, None."""


def _proxied(mapping: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(mapping)


# Experiments and trials are copied and sent to other processes; Python by itself cannot pickle their mappings.
copyreg.pickle(MappingProxyType, lambda mapping: (_proxied, (dict(mapping),)))

ParameterType = Literal["double", "int", "discrete", "categorical"]
Distribution = Literal["uniform", "logUniform", "normal", "logNormal"]
StrategyName = Literal["min", "max", "latest"]


class ObjectiveType(Enum):
    MINIMIZE = "minimize"
    MAXIMIZE = "maximize"

    def reaches(self, value: float, goal: float) -> bool:
        """Inclusive, as Katib's goal test is."""
        return value <= goal if self is ObjectiveType.MINIMIZE else value >= goal


@dataclass(frozen=True)
class Objective:
    type: ObjectiveType
    metric: str
    goal: float | None = None
    additional: tuple[str, ...] = ()
    strategies: Mapping[str, StrategyName] = field(default_factory=lambda: MappingProxyType({}))
    """One entry for each metric, the objective's included; `manifest.defaults` fills them in."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metric names that a collector looks for, the objective first."""
        return (self.metric, *self.additional)

    @property
    def strategy(self) -> StrategyName:
        default: StrategyName = "min" if self.type is ObjectiveType.MINIMIZE else "max"
        return self.strategies.get(self.metric, default)


@dataclass(frozen=True)
class Parameter:
    """One dimension of the search space; owns its domain: bounds, steps, and the text form of its values.

    `minimum`, `maximum` and `step` are the file's own texts ("" when absent); `choices` is the `list`.
    """

    name: str
    type: ParameterType
    minimum: str = ""
    maximum: str = ""
    step: str = ""
    choices: tuple[str, ...] = ()
    distribution: Distribution = "uniform"

    @property
    def is_numeric(self) -> bool:
        return self.type in ("double", "int")

    @property
    def values(self) -> tuple[str, ...]:
        """The different texts of a list, in its order; () of a numeric parameter."""
        return tuple(dict.fromkeys(self.choices))

    @property
    def bounds(self) -> tuple[float, float]:
        """(low, high) of a numeric parameter, both inclusive."""
        return float(self.minimum), float(self.maximum)

    @property
    def size(self) -> float:
        """The number of different values; `math.inf` for a double without a step."""
        if not self.is_numeric:
            return len(self.values)
        step = self.exact_step
        if step is None:
            return math.inf if Decimal(self.minimum) != Decimal(self.maximum) else 1
        return int((Decimal(self.maximum) - Decimal(self.minimum)) / step) + 1

    @property
    def exact_step(self) -> Decimal | None:
        """The step of the file; without a step 1 for an int and None for a double."""
        if self.step:
            return Decimal(self.step)
        return Decimal(1) if self.type == "int" else None

    def on_grid(self, index: int) -> str:
        """Text of the index-th value from the bottom. Decimal arithmetic: 0.1 + 2 * 0.1 is 0.3, not 0.30000000000000004."""
        if not self.is_numeric:
            return self.values[index]
        step = self.exact_step
        assert step is not None, f"{self.name} has no grid"
        return self._text(Decimal(self.minimum) + index * step)

    def text(self, value: float) -> str:
        """The assignment text of a number from the domain: clipped to it, and put on the nearest step counted from min."""
        low, high = self.bounds
        clipped = min(max(value, low), high)
        step = self.exact_step
        if step is None:
            return repr(float(clipped))
        index = round((clipped - low) / float(step))
        return self.on_grid(min(max(index, 0), int(self.size) - 1))

    def contains(self, text: str) -> bool:
        """Whether an assignment text is a value of this parameter, on its step."""
        if not self.is_numeric:
            return text in self.choices
        try:
            value = Decimal(text)
        except InvalidOperation:
            return False
        low = Decimal(self.minimum)
        if not value.is_finite() or not low <= value <= Decimal(self.maximum):
            return False
        step = self.exact_step
        if step is None:
            return True
        places = (value - low) / step
        # A text is the repr of a binary double, which may differ from the grid's decimal in the last digit.
        return abs(places - round(places)) <= Decimal("1e-9")

    def _text(self, value: Decimal) -> str:
        return str(int(value)) if self.type == "int" else repr(float(value))


@dataclass(frozen=True)
class TrialParameter:
    """`reference` is a search parameter's name or a `${trialSpec...}` metadata reference."""

    name: str
    reference: str


@dataclass(frozen=True)
class TrialTemplate:
    """The job of a trial before substitution.

    Placeholders are replaced in `text`, which is compact JSON of an inline trialSpec, or the YAML text of a ConfigMap entry
    (`is_yaml`).
    """

    text: str
    is_yaml: bool
    parameters: tuple[TrialParameter, ...]
    primary_container: str
    success_condition: str = ""
    failure_condition: str = ""
    primary_pod_labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    retain: bool = False


@dataclass(frozen=True)
class Collector:
    """Empty `filters` mean Katib's default filter. `path` is a file or folder in the container; of a PrometheusMetric it is the URL's path,
    served at `port`. `format` is TEXT or JSON, of a File collector."""

    kind: str = "StdOut"
    filters: tuple[str, ...] = ()
    path: str = ""
    format: str = ""
    port: int = 0


@dataclass(frozen=True)
class EarlyStopping:
    algorithm: str
    settings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Experiment:
    """A Katib v1beta1 Experiment, defaulted and checked.

    `manifest` is the object as Katib would store it (defaults filled in); every other field is read from it.
    Absent counts are None: `max_trials` None is unbounded, `max_failed` None is no limit.
    """

    name: str
    namespace: str
    objective: Objective
    algorithm: str
    settings: Mapping[str, str]
    parameters: tuple[Parameter, ...]
    template: TrialTemplate
    parallel_trials: int
    max_trials: int | None
    max_failed: int | None
    collector: Collector
    resume_policy: str
    manifest: Manifest
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    early_stopping: EarlyStopping | None = None

    @property
    def is_training(self) -> bool:
        """Whether it is a job without a search (`training`): its one trial is the job itself, and no metric is compared."""
        return not self.objective.metric

    @property
    def space_size(self) -> float:
        return math.prod(parameter.size for parameter in self.parameters)


NOTHING_TO_COMPARE = Objective(ObjectiveType.MAXIMIZE, "")
"""Of a training: any end with exit code 0 is a success."""


def training(job: Manifest, name: str, namespace: str) -> Experiment:
    """A job without a search, as a search that asks once: its one trial is the job itself."""
    return Experiment(
        name=name,
        namespace=namespace,
        objective=NOTHING_TO_COMPARE,
        algorithm="",
        settings=MappingProxyType({}),
        parameters=(),
        template=TrialTemplate(json.dumps(job), is_yaml=False, parameters=(), primary_container=""),
        parallel_trials=1,
        max_trials=1,
        max_failed=None,
        collector=Collector("AnyName"),
        resume_policy="",
        manifest=job,
    )
