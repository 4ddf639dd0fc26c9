"""The events of a job's containers, and the rules over them: when pods and the job succeed or fail, and which of them start again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from katuna.manifest.job import Job, Replica


@dataclass(frozen=True)
class ContainerStarted:
    """A container of trial `number` runs. `restarts` counts from 0 within the pod; `process` has `pid`, `guard`, and how it was started."""

    at: float
    number: int
    pod: str
    container: str
    restarts: int
    process: Mapping[str, object]


@dataclass(frozen=True)
class ContainerExited:
    """The end of a container. `code` is 128 + signal for a signal, None when nothing was executed. `reason` is a kubelet's word
    (Completed, Error, OOMKilled, StartError), or Stopped when katuna ended the container."""

    at: float
    number: int
    pod: str
    container: str
    restarts: int
    code: int | None
    reason: str
    message: str = ""


@dataclass(frozen=True)
class JobEnded:
    """No process of the job is left. `condition` is Succeeded, Failed, Suspended, or Stopped for a job that can be resumed; `reason` is
    a CamelCase word. Journals do not hold it: a trial's Exited says the same."""

    at: float
    condition: str
    reason: str
    message: str = ""


ContainerEvent = ContainerStarted | ContainerExited
JobEvent = ContainerEvent | JobEnded


# Pods, from their containers' events

COMPLETED, STOPPED, START_ERROR, DEADLINE = "Completed", "Stopped", "StartError", "DeadlineExceeded"
BACKOFF_LIMIT = "BackoffLimitExceeded"

Rules = Literal["local", "as-operator"]
"""`local`: the first failure is final unless the file writes backoffLimit. `as-operator`: the cluster's rules."""
Phase = Literal["Pending", "Running", "Succeeded", "Failed"]


@dataclass(frozen=True)
class ContainerState:
    """`code` and `reason` are of the container's last end, None and "" while it runs."""

    restarts: int
    running: bool = True
    code: int | None = None
    reason: str = ""


Pods = Mapping[str, Mapping[str, ContainerState]]
"""The state of each container that has started, by pod and name. A pod that begins anew has no containers in it."""


def advance(pods: Pods, event: ContainerEvent) -> Pods:
    """The pods after an event. A container that starts with no restarts where one had run before belongs to a new pod."""
    states = pods.get(event.pod, {})
    if isinstance(event, ContainerExited):
        state = ContainerState(event.restarts, running=False, code=event.code, reason=event.reason)
    else:
        state = ContainerState(event.restarts)
        states = {} if event.restarts == 0 and event.container in states else states
    return {**pods, event.pod: {**states, event.container: state}}


def phase(replica: Replica, states: Mapping[str, ContainerState], rules: Rules = "as-operator") -> Phase:
    """A pod's phase. The kubelet's rule looks at all containers, so a sidecar that never ends keeps a pod Running; `local` fails
    a pod as soon as the container that trains has failed."""
    policy = "Never" if rules == "local" or replica.restart_policy == "ExitCode" else replica.restart_policy
    inits = [states.get(init.name) for init in replica.init_containers]
    if policy == "Never" and any(state and not state.running and state.reason != COMPLETED for state in inits):
        return "Failed"
    main, *others = [states.get(each.name) for each in (replica.container, *replica.sidecars)]
    if main is None or any(state is None or state.reason != COMPLETED for state in inits):
        return "Pending"
    failed = not main.running and main.reason != COMPLETED
    if failed and rules == "local":
        return "Failed"
    if any(state is None or state.running for state in (main, *others)) or policy == "Always":
        return "Running"
    if failed or any(state.reason not in (COMPLETED, STOPPED) for state in others if state):
        return "Failed" if policy == "Never" else "Running"
    return "Succeeded"


def phases(job: Job, pods: Pods, rules: Rules = "as-operator") -> Mapping[str, Phase]:
    return {replica.pod_name: phase(replica, pods.get(replica.pod_name, {}), rules) for replica in job.replicas}


def master_of(job: Job) -> Replica | None:
    return next((replica for replica in job.replicas if replica.role == "master"), None)


def succeeded(job: Job, found: Mapping[str, Phase]) -> bool:
    """training-operator.md 3.2: with a Master its success is the job's, whatever the workers do; without one the first worker's
    where the job is elastic, else all pods'."""
    master = master_of(job)
    if master is not None:
        return found[master.pod_name] == "Succeeded"
    return (any if job.elastic else all)(each == "Succeeded" for each in found.values())


# What follows from an event


@dataclass(frozen=True)
class Again:
    """The container starts again in its pod, the pod starts anew with no restarts, or all pods of the job do, in `delay_s`."""

    scope: Literal["container", "pod", "job"]
    delay_s: float


@dataclass(frozen=True)
class Over:
    condition: Literal["Succeeded", "Failed"]
    reason: str


def after_exit(
    job: Job, pods: Pods, exited: ContainerExited, *, rules: Rules, restarts: int, crashes: int = 0
) -> Again | Over | None:
    """The consequence of a container's end, None for none. `pods` are the states after it. `restarts` counts the whole job's restarts;
    `crashes` the earlier ends of this container since it last ran for ten minutes.

    A command that cannot be run is final under all rules.
    """
    replica = next(each for each in job.replicas if each.pod_name == exited.pod)
    if exited.reason == STOPPED and exited.container == replica.container.name:
        return None
    now = phase(replica, pods[exited.pod], rules)
    if now == "Succeeded":
        return Over("Succeeded", COMPLETED) if succeeded(job, phases(job, pods, rules)) else None
    if exited.reason in (START_ERROR, DEADLINE):
        return Over("Failed", exited.reason)
    if rules == "local":
        return _locally(job, replica, exited, restarts) if now == "Failed" else None
    return _in_a_cluster(job, replica, exited, now, pods[exited.pod], restarts, crashes)


def _locally(job: Job, replica: Replica, exited: ContainerExited, restarts: int) -> Again | Over:
    """By the policy of the replica that failed. All replicas begin again, as ranks cannot go on without a dead rank; in an elastic job
    the failed replica alone does. Kubernetes' own Job controller treats `Never` like any other policy."""
    never = job.kind == "PyTorchJob" and replica.restart_policy == "Never"
    least = 128 if replica.restart_policy == "ExitCode" else 1
    if not never and restarts < (job.backoff_limit or 0) and (exited.code or 0) >= least:
        return Again("container" if job.elastic else "job", min(10.0, 0.1 * 2**restarts))
    return Over("Failed", exited.reason if exited.reason != COMPLETED else "Error")


def _in_a_cluster(
    job: Job,
    replica: Replica,
    exited: ContainerExited,
    now: Phase,
    states: Mapping[str, ContainerState],
    restarts: int,
    crashes: int,
) -> Again | Over | None:
    """training-operator.md 3.3."""
    if job.kind != "PyTorchJob":
        return None if now != "Failed" and exited.reason == COMPLETED else _by_the_job_controller(job, replica, restarts, crashes)
    if replica.restart_policy in ("OnFailure", "Always"):
        again = exited.reason != COMPLETED or (replica.restart_policy == "Always" and not _is_init(replica, exited.container))
        return Again("container", kubelet_backoff_s(crashes)) if again else None
    if now != "Failed":
        return None
    main = states.get(replica.container.name)
    # The operator looks only at the exit code of the container that trains; a missing exit code counts as retryable.
    if replica.restart_policy == "ExitCode" and (main is None or main.code is None or main.code >= 128):
        return Over("Failed", BACKOFF_LIMIT) if job.backoff_limit == 0 else Again("pod", 0.0)
    return Over("Failed", exited.reason if exited.reason != COMPLETED else "Error")


def _by_the_job_controller(job: Job, replica: Replica, restarts: int, crashes: int) -> Again | Over:
    """The rule of a batch Job and of a TrainJob's Job. `after_start` counts the restarts in a pod."""
    if replica.restart_policy == "OnFailure":
        return Again("container", kubelet_backoff_s(crashes))
    return Again("pod", kubelet_backoff_s(restarts)) if restarts < (backoff_limit(job) or 0) else Over("Failed", BACKOFF_LIMIT)


def after_start(job: Job, pods: Pods, rules: Rules) -> Over | None:
    """training-operator.md 3.4: the operator's total of restarts, counted in pods that run; `backoffLimit: 1` fails the job at
    its first restart. It never limits ExitCode, whose pods begin anew. Kubernetes' own Job controller counts so under OnFailure."""
    limit = backoff_limit(job)
    if rules == "local" or limit is None:
        return None
    running = [
        replica
        for replica in job.replicas
        if replica.restart_policy != "Never" and phase(replica, pods.get(replica.pod_name, {})) == "Running"
    ]
    total = sum(state.restarts for replica in running for state in pods[replica.pod_name].values())
    return Over("Failed", BACKOFF_LIMIT) if total >= max(1, limit) else None


def backoff_limit(job: Job) -> int | None:
    """The limit that a cluster's controller applies; None is no limit."""
    return JOB_BACKOFF_LIMIT if job.backoff_limit is None and job.kind != "PyTorchJob" else job.backoff_limit


JOB_BACKOFF_LIMIT = 6
"""Of a batch Job that writes no backoffLimit."""
CRASH_RESET_S = 600.0
"""The back-off of a container that ran this long begins anew."""


def kubelet_backoff_s(crashes: int) -> float:
    """10 s, 20 s, ... 300 s."""
    return min(300.0, 10.0 * float(2 ** min(crashes, 5)))


def _is_init(replica: Replica, container: str) -> bool:
    return any(init.name == container for init in replica.init_containers)
