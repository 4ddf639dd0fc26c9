"""The recorded runs of the real Katib, read: their Experiments, trials and every status, and the journals that katuna would have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from factories import make_experiment
from katuna.manifest.defaults import with_defaults
from katuna.manifest.experiment import EarlyStopping, Experiment, Objective, ObjectiveType, TrialParameter, TrialTemplate
from katuna.manifest.render import compact_json
from katuna.metric_line import Report
from katuna.search.trials import EARLY_STOPPED, UNAVAILABLE, Asked, Event, Exited, Reported, Started, Stopping, StopRule
from recordings import KATIB_RECORDED as RECORDED

FILES = sorted(RECORDED.glob("*.jsonl"))
recorded = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)

Json = dict[str, Any]


@dataclass
class Recording:
    """A run of the real Katib. Trials by name, in the order of creation; each status with the time it was seen at."""

    experiment: Experiment
    final: Json = field(default_factory=dict)
    until: float = 0.0
    trials: dict[str, Json] = field(default_factory=dict)
    statuses: dict[str, list[tuple[float, Json]]] = field(default_factory=dict)
    restarts: list[Json] = field(default_factory=list)
    """The conditions that say when an edit took the search up again."""

    def assignments(self, name: str) -> dict[str, str]:
        return {one["name"]: one["value"] for one in self.trials[name]["spec"]["parameterAssignments"]}

    def rules(self, name: str) -> tuple[StopRule, ...]:
        rules = self.trials[name]["spec"].get("earlyStoppingRules", ())
        return tuple(StopRule(rule["name"], rule["value"], rule["comparison"], rule["startStep"]) for rule in rules)


def read(file: Path) -> Recording:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    recording = Recording(experiment_of(lines[0]))
    for line in lines[1:]:
        if line["kind"] == "Experiment" and "status" in line:
            recording.final, recording.until = line["status"], line["t"]
        if line["kind"] == "Trial":
            if "spec" in line:
                recording.trials[line["name"]] = line
            if "status" in line:
                recording.statuses.setdefault(line["name"], []).append((line["t"], line["status"]))
    recording.restarts = [one for one in recording.final["conditions"] if one["type"] == "Restarting"]
    return recording


def experiment_of(request: Json) -> Experiment:
    metadata = {"name": request["name"], "namespace": "kubeflow"}
    given = {"apiVersion": "kubeflow.org/v1beta1", "kind": "Experiment", "metadata": metadata, "spec": request["spec"]}
    manifest = with_defaults(given)
    spec = manifest["spec"]
    objective, template, stopping = spec["objective"], spec["trialTemplate"], spec.get("earlyStopping")
    settings = {one["name"]: one["value"] for one in (stopping or {}).get("algorithmSettings", ())}
    return make_experiment(
        name=request["name"],
        namespace="kubeflow",
        manifest=manifest,
        objective=Objective(
            ObjectiveType(objective["type"]),
            objective["objectiveMetricName"],
            objective.get("goal"),
            tuple(objective.get("additionalMetricNames", ())),
            {strategy["name"]: strategy["value"] for strategy in objective["metricStrategies"]},
        ),
        template=TrialTemplate(
            compact_json(template["trialSpec"]),
            False,
            tuple(TrialParameter(one["name"], one["reference"]) for one in template["trialParameters"]),
            template["primaryContainerName"],
            template["successCondition"],
            template["failureCondition"],
            template.get("primaryPodLabels", {}),
            template.get("retain", False),
        ),
        parallel_trials=spec["parallelTrialCount"],
        max_trials=spec.get("maxTrialCount"),
        max_failed=spec.get("maxFailedTrialCount"),
        resume_policy=spec["resumePolicy"],
        early_stopping=EarlyStopping(stopping["algorithmName"], settings) if stopping else None,
    )


def seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


def trial_events(recording: Recording, number: int, name: str, status: Json) -> Iterator[Event]:
    """The journal of a trial that katuna would have run as Katib ran this one, up to `status`."""
    conditions = {one["type"]: one for one in status["conditions"]}
    created = seconds(conditions["Created"]["lastTransitionTime"])
    yield Asked(created, number, name, MappingProxyType(recording.assignments(name)), MappingProxyType({}), recording.rules(name))
    if "Running" not in conditions:
        return
    yield Started(seconds(conditions["Running"]["lastTransitionTime"]), number, 1, {})
    for metric in status.get("observation", {}).get("metrics", []):
        values = [metric[part] for part in ("min", "max", "latest") if metric[part] != UNAVAILABLE]
        yield Reported(created, number, tuple(Report(metric["name"], text, time) for time, text in enumerate(values)))
    last = status["conditions"][-1]
    if last["type"] == "Running":
        return
    at = seconds(last["lastTransitionTime"])
    if is_early_stopped(status):
        yield Stopping(at, number, EARLY_STOPPED)
        yield Exited(at, number, 143, "Stopped", "stopped")
        return
    _, _, reason = last["reason"].partition("Job reason: ")
    _, _, message = last["message"].partition("Job message: ")
    yield Exited(at, number, 1 if last["type"] == "Failed" else 0, reason, message)


def is_early_stopped(status: Json) -> bool:
    return bool(status["conditions"][-1]["type"] == "EarlyStopped")
