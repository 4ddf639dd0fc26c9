"""What Katib would show of a run: Experiment and Trial objects with `status`, computed from the journal and stored nowhere."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from katuna.manifest.experiment import Experiment
from katuna.manifest.render import render
from katuna.search.budget import edited
from katuna.search.trials import Search, Trial, TrialState

EXPERIMENT_LABEL = "katib.kubeflow.org/experiment"

_LISTS = {
    TrialState.RUNNING: ("runningTrialList", "trialsRunning"),
    TrialState.CREATED: ("pendingTrialList", "trialsPending"),
    TrialState.FAILED: ("failedTrialList", "trialsFailed"),
    TrialState.SUCCEEDED: ("succeededTrialList", "trialsSucceeded"),
    TrialState.KILLED: ("killedTrialList", "trialsKilled"),
    TrialState.EARLY_STOPPED: ("earlyStoppedTrialList", "trialsEarlyStopped"),
    TrialState.METRICS_UNAVAILABLE: ("metricsUnavailableTrialList", "trialMetricsUnavailable"),
}
"""Name list and count of each state; the last count is spelt so in Katib (katib.md 2.1)."""

_ENDS = {
    TrialState.SUCCEEDED: ("TrialSucceeded", "Trial has succeeded"),
    TrialState.FAILED: ("TrialFailed", "Trial has failed"),
    TrialState.KILLED: ("TrialKilled", "Trial is killed"),
    TrialState.EARLY_STOPPED: ("TrialEarlyStopped", "Trial is early stopped"),
    TrialState.METRICS_UNAVAILABLE: ("MetricsUnavailable", "Metrics are not available"),
}
"""Reason and message of a trial's last condition, before the job's own are added. Katib never kills; that pair is ours."""

_OBSERVED = (TrialState.SUCCEEDED, TrialState.EARLY_STOPPED, TrialState.METRICS_UNAVAILABLE)
"""Katib reads metrics only of trials that came to an end of their own: a failed trial has no observation."""

Json = dict[str, Any]


def katib_experiment(experiment: Experiment, search: Search) -> Json:
    """The Experiment object as Katib would store it, status included. Times are RFC 3339 in UTC, cut to the second.

    The spec shows the budget as it was last edited. As on a cluster `completionTime` is null until a trial exists, absent while
    trials run, and set at the end; it stays when an edit takes the search up again, which is then `Restarting` for ever.
    Differences: names are listed in the order of creation; a search that was merely interrupted and resumed shows nothing of it.
    """
    return {**edited(experiment, search).manifest, "status": _experiment_status(experiment, search)}


def katib_trial(experiment: Experiment, trial: Trial) -> Json:
    """The Trial object as Katib would store it, status included, but for uid and owner.

    Differences: job reasons and messages are those of a process; a trial whose metrics are unavailable says which lines were
    nearest; a trial that the search stopped is `Killed`, a condition that Katib declares and never sets.
    """
    labels = {**experiment.labels, EXPERIMENT_LABEL: experiment.name, **trial.labels}
    return {
        "apiVersion": "kubeflow.org/v1beta1",
        "kind": "Trial",
        "metadata": {
            "name": trial.name,
            "namespace": experiment.namespace,
            "creationTimestamp": timestamp(trial.created_at),
            "labels": labels,
        },
        "spec": _trial_spec(experiment, trial),
        "status": _trial_status(experiment, trial),
    }


def timestamp(seconds: float) -> str:
    """Seconds since the epoch as Kubernetes writes a time: `2026-11-23T13:08:05Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def observation(experiment: Experiment, trial: Trial) -> Json:
    """Every metric of the strategies, in their order; `unavailable` where nothing was reported."""
    names = tuple(experiment.objective.strategies) or experiment.objective.metrics
    summaries = ((name, trial.summary(name)) for name in names)
    return {"metrics": [{"name": name, "min": s.minimum, "max": s.maximum, "latest": s.latest} for name, s in summaries]}


def _assignments(trial: Trial) -> list[Json]:
    return [{"name": name, "value": value} for name, value in trial.assignments.items()]


def _condition(kind: str, reason: str, message: str, at: float, *, holds: bool = True) -> Json:
    when = timestamp(at)
    return {
        "type": kind,
        "status": "True" if holds else "False",
        "reason": reason,
        "message": message,
        "lastUpdateTime": when,
        "lastTransitionTime": when,
    }


def _experiment_status(experiment: Experiment, search: Search) -> Json:
    trials = list(search.trials.values())
    status: Json = {"conditions": _experiment_conditions(search)}
    if search.opened is not None:
        status["startTime"] = timestamp(search.opened.at)
    if search.completed_at is not None:
        status["completionTime"] = timestamp(search.completed_at)
    elif not trials:
        status["completionTime"] = None
    if trials:
        status["trials"] = len(trials)
    for state, (listing, count) in _LISTS.items():
        names = [trial.name for trial in trials if trial.state is state]
        if names:
            status[listing] = names
            status[count] = len(names)
    best = search.best
    status["currentOptimalTrial"] = {"observation": {}}
    if best is not None:
        status["currentOptimalTrial"] = {
            "bestTrialName": best.name,
            "parameterAssignments": _assignments(best),
            "observation": observation(experiment, best),
        }
    return status


def _experiment_conditions(search: Search) -> list[Json]:
    conditions = []
    if search.opened is not None:
        conditions.append(_condition("Created", "ExperimentCreated", "Experiment is created", search.opened.at))
    if search.restarted_at is not None:
        conditions.append(_condition("Restarting", "ExperimentRestarting", "Experiment is restarted", search.restarted_at))
    first = next(iter(search.trials.values()), None)
    if first is not None:
        since = search.restarted_at or first.created_at if search.ended is None else search.ended.at
        running = _condition("Running", "ExperimentRunning", "Experiment is running", since, holds=search.ended is None)
        conditions.append(running)
    if search.ended is not None:
        kind = "Succeeded" if search.ended.succeeded else "Failed"
        conditions.append(_condition(kind, search.ended.reason, search.ended.message, search.ended.at))
    return conditions


def _trial_spec(experiment: Experiment, trial: Trial) -> Json:
    template, spec = experiment.template, experiment.manifest["spec"]
    fields: Json = {
        "objective": spec["objective"],
        "parameterAssignments": _assignments(trial),
        "runSpec": render(experiment, trial.name, trial.assignments),
        "metricsCollector": spec["metricsCollectorSpec"],
        "primaryContainerName": template.primary_container,
        "successCondition": template.success_condition,
        "failureCondition": template.failure_condition,
    }
    if trial.rules:
        fields["earlyStoppingRules"] = [
            {"name": rule.metric, "value": rule.value, "comparison": rule.comparison, "startStep": rule.start_step}
            for rule in trial.rules
        ]
    if trial.labels:
        fields["labels"] = dict(trial.labels)
    if template.primary_pod_labels:
        fields["primaryPodLabels"] = dict(template.primary_pod_labels)
    if template.retain:
        fields["retainRun"] = True
    return fields


def _trial_status(experiment: Experiment, trial: Trial) -> Json:
    status: Json = {"conditions": _trial_conditions(trial), "startTime": timestamp(trial.created_at)}
    if trial.state is TrialState.CREATED:
        status["completionTime"] = None
    elif trial.ended_at is not None and trial.state is not TrialState.EARLY_STOPPED:
        status["completionTime"] = timestamp(trial.ended_at)
    if trial.state in _OBSERVED:
        status["observation"] = observation(experiment, trial)
    return status


def _trial_conditions(trial: Trial) -> list[Json]:
    """An early-stopped trial stays Running beside EarlyStopped and never completes, as the recorded ones do."""
    conditions = [_condition("Created", "TrialCreated", "Trial is created", trial.created_at)]
    stays = trial.state in (TrialState.RUNNING, TrialState.EARLY_STOPPED)
    if trial.started_at is not None:
        since = trial.started_at if stays or trial.ended_at is None else trial.ended_at
        conditions.append(_condition("Running", "TrialRunning", "Trial is running", since, holds=stays))
    if trial.state.is_final:
        reason, message = _ENDS[trial.state]
        if trial.state is not TrialState.EARLY_STOPPED:
            if trial.reason and trial.reason != reason:
                reason = f"{reason}. Job reason: {trial.reason}"
            if trial.remark:
                message = f"{message}. Job message: {trial.remark}"
        conditions.append(_condition(trial.state.value, reason, message, trial.ended_at or trial.created_at))
    return conditions
