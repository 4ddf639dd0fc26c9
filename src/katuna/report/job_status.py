"""What its controller would show of a training: the job's status, as the journal tells it (training-operator.md 3, 6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from katuna.jobs.lifecycle import (
    ContainerExited,
    ContainerStarted,
    Pods,
    Rules,
    advance,
    master_of,
    phases,
)
from katuna.manifest.job import Job
from katuna.report.katib_status import timestamp
from katuna.search.budget import SUSPENDED
from katuna.search.trials import Ended, Event, Opened, Resumed

Json = dict[str, Any]

CREATED, RUNNING, RESTARTING, SUCCEEDED, FAILED = "Created", "Running", "Restarting", "Succeeded", "Failed"


class Conditions:
    """The list of conditions: one of each type, in the order of their last change."""

    def __init__(self) -> None:
        self._of: dict[str, Json] = {}

    def set(self, kind: str, value: bool, reason: str, message: str, at: float) -> None:
        """By the operator's rules: a condition that says the same already is not touched, Running and Restarting evict each other,
        an end makes Running False, and after Failed nothing changes."""
        if self._is(FAILED):
            return
        old = self._of.get(kind)
        if old and (old["status"], old["reason"]) == (str(value), reason):
            return
        moment = timestamp(at)
        changed = moment if not old or old["status"] != str(value) else old["lastTransitionTime"]
        self._of.pop(kind, None)
        if kind in (RUNNING, RESTARTING):
            self._of.pop(RESTARTING if kind == RUNNING else RUNNING, None)
        if kind in (SUCCEEDED, FAILED) and self._is(RUNNING):
            self._of[RUNNING] = {**self._of[RUNNING], "status": "False", "lastUpdateTime": moment, "lastTransitionTime": moment}
        self._of[kind] = {
            "type": kind,
            "status": str(value),
            "reason": reason,
            "message": message,
            "lastUpdateTime": moment,
            "lastTransitionTime": changed,
        }

    def _is(self, kind: str) -> bool:
        return self._of.get(kind, {}).get("status") == "True"

    def as_json(self) -> list[Json]:
        return list(self._of.values())


def condition(end: Ended) -> str:
    """Of a training that has ended: Succeeded, Failed, or Suspended where it was not to begin."""
    return SUSPENDED if end.reason == SUSPENDED else SUCCEEDED if end.succeeded else FAILED


def status(job: Job, events: Iterable[Event], *, stopped: bool = False) -> Json:
    """`events` are those of a training's journal. `stopped`: katuna was interrupted in it, so it has Running False, reason
    KatunaStopped."""
    told = tuple(events)
    opened = next((event for event in told if isinstance(event, Opened)), None)
    rules: Rules = "as-operator" if opened and _restarts(opened) == "as-operator" else "local"
    state = _State(job, rules)
    for event in told:
        state.take(event)
    if stopped:
        state.stop(told[-1].at)
    return {"PyTorchJob": state.pytorchjob, "TrainJob": state.trainjob}.get(job.kind, state.batch)()


class _State:
    """What the events up to now come to."""

    def __init__(self, job: Job, rules: Rules) -> None:
        self.job = job
        self.rules = rules
        self.conditions = Conditions()
        self.pods: Pods = {}
        self.started = ""
        self.completed = ""
        self.last: Ended | None = None
        self.over = ""

    def take(self, event: Event) -> None:
        job, say = self.job, self._say
        if isinstance(event, Opened):
            self.started = timestamp(event.at)
            say(CREATED, True, CREATED, f"{job.kind} {job.name} is created.", event.at)
        elif isinstance(event, Resumed):
            if self.over == SUSPENDED:
                self.started = timestamp(event.at)
                say(SUSPENDED, False, "Resumed", f"{job.kind} {job.name} is resumed.", event.at)
            self.last, self.over, self.pods = None, "", {}
        elif isinstance(event, ContainerStarted | ContainerExited):
            ran = event.container in self.pods.get(event.pod, {})
            self.pods = advance(self.pods, event)
            if isinstance(event, ContainerStarted) and event.restarts == 0 and ran:
                say(RESTARTING, True, RESTARTING, f"{job.kind} {job.name} is restarting.", event.at)
            if self._runs():
                say(RUNNING, True, RUNNING, f"{job.kind} {job.name} is running.", event.at)
        elif isinstance(event, Ended):
            self.last, self.over = event, condition(event)
            self._end(event)

    def stop(self, at: float) -> None:
        self.over = "Stopped"
        message = f"{self.job.kind} {self.job.name} was stopped; `katuna resume` goes on with it."
        self.conditions.set(RUNNING, False, "KatunaStopped", message, at)

    def _runs(self) -> bool:
        found = phases(self.job, self.pods, self.rules)
        master = master_of(self.job)
        return found[master.pod_name] == RUNNING if master else RUNNING in found.values()

    def _end(self, event: Ended) -> None:
        whole = f"{self.job.kind} {self.job.name}"
        if self.over == SUSPENDED:
            self._say(SUSPENDED, True, SUSPENDED, f"{whole} is suspended.", event.at)
        else:
            self.completed = timestamp(event.at)
            done = f"{whole} is successfully completed."
            message = done if event.succeeded else f"{whole} has failed: {event.message or event.reason}"
            self._say(self.over, True, self.over, message, event.at)

    def _say(self, kind: str, value: bool, reason: str, message: str, at: float) -> None:
        self.conditions.set(kind, value, f"{self.job.kind}{reason}", message, at)

    # In the shape of each kind

    def pytorchjob(self) -> Json:
        counts = self._counts(lambda replica: replica.role.capitalize())
        times = {"startTime": self.started, "completionTime": self.completed}
        return {
            "conditions": self.conditions.as_json(),
            "replicaStatuses": counts,
            **{name: moment for name, moment in times.items() if moment},
        }

    def trainjob(self) -> Json:
        """Its conditions are Suspended, Complete and Failed alone."""
        named = {SUCCEEDED: ("Complete", "AllJobsCompleted"), FAILED: (FAILED, "FailedJobs")}
        kept = []
        for each in self.conditions.as_json():
            if each["type"] in (SUSPENDED, *named):
                kind, reason = named.get(each["type"], (each["type"], each["reason"]))
                kept.append(
                    {key: value for key, value in {**each, "type": kind, "reason": reason}.items() if key != "lastUpdateTime"}
                )
        return {
            "conditions": kept,
            "jobsStatus": [{"name": name, **counts} for name, counts in self._counts(lambda _: "node").items()],
        }

    def batch(self) -> Json:
        named = {SUCCEEDED: "Complete", FAILED: FAILED, SUSPENDED: SUSPENDED}
        conditions = []
        for each in self.conditions.as_json():
            if each["type"] in named:
                reason = {SUCCEEDED: "CompletionsReached", SUSPENDED: "JobSuspended"}.get(
                    each["type"], self.last.reason if self.last else ""
                )
                conditions.append(
                    {
                        **{key: value for key, value in each.items() if key != "lastUpdateTime"},
                        "type": named[each["type"]],
                        "reason": reason,
                    }
                )
        # Kubernetes gives a Job that failed none.
        succeeded = any(each["type"] == "Complete" for each in conditions)
        times = {"startTime": self.started, "completionTime": self.completed if succeeded else ""}
        counts = next(iter(self._counts(lambda _: "").values()), {})
        return {"conditions": conditions, **counts, **{name: moment for name, moment in times.items() if moment}}

    def _counts(self, group: Any) -> Mapping[str, Json]:
        """Pods by phase, as the operator counts: after a success those that still ran have succeeded."""
        over = self.over
        found = phases(self.job, self.pods, self.rules)
        counted: dict[str, Counter[str]] = {group(replica): Counter() for replica in self.job.replicas}
        for replica in self.job.replicas:
            phase = found[replica.pod_name]
            main = self.pods.get(replica.pod_name, {}).get(replica.container.name)
            ended_with_it = main is not None and main.reason == "Stopped"
            if over == SUCCEEDED and (phase == RUNNING or ended_with_it):
                counted[group(replica)]["succeeded"] += 1
            elif over in ("Stopped", SUSPENDED) or (over == FAILED and ended_with_it):
                continue
            elif phase in (RUNNING, SUCCEEDED, FAILED):
                counted[group(replica)][{RUNNING: "active", SUCCEEDED: "succeeded", FAILED: "failed"}[phase]] += 1
        return {name: dict(counts) for name, counts in counted.items()}


def _restarts(opened: Opened) -> object:
    local = opened.options.get("local")
    return local.get("restarts") if isinstance(local, Mapping) else None
