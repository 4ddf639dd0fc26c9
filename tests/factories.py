"""Values that tests are made of: small valid ones, of which a test changes what it is about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from katuna.manifest.experiment import Collector, Experiment, Objective, ObjectiveType, Parameter, TrialParameter, TrialTemplate
from katuna.metric_line import Report
from katuna.search.trials import Asked, Event, Exited, Opened, Reported, Started, Trial, TrialState, trial_name

LR = Parameter("lr", "double", "1e-4", "1e-1", distribution="logUniform")
WIDTH = Parameter("width", "int", "8", "64", "8")
OPTIMIZER = Parameter("optimizer", "categorical", choices=("sgd", "adam"))


def make_objective(**changes: Any) -> Objective:
    return Objective(**{"type": ObjectiveType.MAXIMIZE, "metric": "accuracy", **changes})


def make_experiment(**changes: Any) -> Experiment:
    """A search over three parameters by random, four trials, two at a time."""
    parameters = changes.get("parameters", (LR, WIDTH, OPTIMIZER))
    placeholders = [f"--{parameter.name}=${{trialParameters.{parameter.name}}}" for parameter in parameters]
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "spec": {
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{"name": "main", "image": "i", "command": ["python", "train.py", *placeholders]}],
                }
            }
        },
    }
    values: dict[str, Any] = {
        "name": "digits",
        "namespace": "default",
        "objective": make_objective(),
        "algorithm": "random",
        "settings": MappingProxyType({}),
        "parameters": parameters,
        "template": TrialTemplate(
            json.dumps(job), False, tuple(TrialParameter(parameter.name, parameter.name) for parameter in parameters), "main"
        ),
        "parallel_trials": 2,
        "max_trials": 4,
        "max_failed": None,
        "collector": Collector(),
        "resume_policy": "Never",
        "manifest": MappingProxyType({}),
    }
    return Experiment(**{**values, **changes})


def make_trial(
    number: int = 0, *, state: TrialState = TrialState.CREATED, assignments: Mapping[str, str] | None = None, **changes: Any
) -> Trial:
    values = {"created_at": 0.0, "assignments": MappingProxyType(dict(assignments or {})), "state": state}
    return Trial(**{"number": number, "name": f"digits-{number:08d}", **values, **changes})


def opened(seed: int = 1) -> Opened:
    return Opened(0.0, "digits", seed, "0" * 64, {"katuna": "0"}, {})


def a_life(number: int, assignments: Mapping[str, str], value: float | None, at: float = 0.0) -> list[Event]:
    """The events of a trial that reports once and ends well, or, with no value, that fails."""
    events: list[Event] = [
        Asked(at, number, trial_name("digits", 1, number), MappingProxyType(dict(assignments))),
        Started(at + 1, number, 1, {"pid": 4242}),
    ]
    if value is None:
        return [*events, Exited(at + 2, number, 1, "Error", "exit code 1")]
    return [*events, Reported(at + 2, number, (Report("accuracy", repr(value)),)), Exited(at + 3, number, 0, "Completed")]
