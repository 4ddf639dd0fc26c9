"""What the Training Operator refuses in a PyTorchJob, and what it accepts and then does otherwise (training-operator.md 1, 10.3).

Paths are the webhook's own, from the job's top. The rules on containers and pods, which a Job has too, are jobcheck's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from katuna.errors import CLUSTERS, EVERYWHERE, Engine
from katuna.manifest.build import elastic_range
from katuna.manifest.diagnostic import Path, Remark, did_you_mean, listed, shown
from katuna.manifest.fields import Reach
from katuna.manifest.job import words_may_launch
from katuna.manifest.names import GENERATED, MAX_LABEL, is_label, is_service_name, is_subdomain

REPLICAS: Path = ("spec", "pytorchReplicaSpecs")
ROLES = ("Master", "Worker")
ELASTIC: Path = ("spec", "elasticPolicy")
NPROC: Path = ("spec", "nprocPerNode")
RUN_POLICY: Path = ("spec", "runPolicy")
MANAGERS = ("kubeflow.org/training-operator", "kueue.x-k8s.io/multikueue")
BACKENDS = ("c10d", "etcd", "etcd-v2")

_COUNT = re.compile(r"[1-9][0-9]{0,8}\Z")
_REFERENCE = re.compile(r"(?<!\$)(?:\$\$)*\$\(([A-Z_]+)\)")

_ALWAYS = {"PYTHONUNBUFFERED", "PET_NNODES", "PET_NPROC_PER_NODE"}
_WITH_MASTER = {"MASTER_PORT", "PET_MASTER_PORT", "MASTER_ADDR", "PET_MASTER_ADDR", "WORLD_SIZE", "RANK", "PET_NODE_RANK"}
_ELASTIC = {"PET_RDZV_ENDPOINT", "PET_RDZV_BACKEND"}
_ELASTIC_FIELDS = {
    "maxRestarts": "PET_MAX_RESTARTS",
    "rdzvId": "PET_RDZV_ID",
    "rdzvConf": "PET_RDZV_CONF",
    "standalone": "PET_STANDALONE",
}
_EVER = {*_ALWAYS, *_WITH_MASTER, *_ELASTIC, *_ELASTIC_FIELDS.values()}


def check_operator(job: Mapping[str, Any], refused: Reach, stuck: Reach, unusable: Reach) -> Iterator[Remark]:
    """Remarks on the spec of a PyTorchJob. `refused` are those whose job never comes to be, `stuck` those whose job the operator
    accepts and never runs, `unusable` those whose job nobody can run."""
    spec = job["spec"]
    replicas = {role: each for role, each in spec.get("pytorchReplicaSpecs", {}).items() if role in ROLES}
    for remark in _refusals(spec, replicas):
        yield from refused.of(remark)
    for remark in _standstills(spec):
        yield from stuck.of(remark)
    for remark in _nonsense(spec):
        yield from unusable.of(remark)
    yield from _check_ranks(spec, replicas)
    yield from _check_run_policy(spec.get("runPolicy", {}), replicas)
    if "elasticPolicy" in spec:
        yield from _check_elastic(spec["elasticPolicy"], replicas)
    for role, replica in replicas.items():
        yield from _check_replica(replica, injected(spec), (*REPLICAS, role))


def check_name(job: Mapping[str, Any]) -> Iterator[Remark]:
    """The names of a job that stands alone; a trial's are Katib's matter."""
    metadata, is_batch = job.get("metadata", {}), job["kind"] == "Job"
    field = "name" if metadata.get("name") or not metadata.get("generateName") else "generateName"
    name: Path = ("metadata", field)
    written = str(metadata.get(field, ""))
    given = written if field == "name" else written[: MAX_LABEL - GENERATED] + "x" * GENERATED
    replicas = job.get("spec", {}).get("pytorchReplicaSpecs", {})
    longest = max((len(f"-{role}-{each.get('replicas', 1) - 1}") for role, each in replicas.items()), default=0)
    namespace = metadata.get("namespace") or "default"
    if not is_label(namespace):
        message = f"{shown(namespace)} is no DNS-1123 label of at most {MAX_LABEL} characters"
        yield Remark(("metadata", "namespace"), message, "lower case letters, digits and '-'", code="job-name")
    if not given:
        yield Remark(name, "must be specified", "lower case letters, digits and '-'", code="missing-field")
    elif not (is_subdomain(given) and len(given) <= MAX_LABEL if is_batch else is_service_name(given)):
        form = "DNS-1123 subdomain" if is_batch else "DNS-1035 label"
        hint = "lower case letters, digits and '-'" + ("" if is_batch else ", beginning with a letter")
        yield Remark(name, f"{shown(written)} is no {form} of at most {MAX_LABEL} characters", hint, code="job-name")
    elif len(given) + longest > MAX_LABEL:
        message = (
            f"the pods' names would have {len(given) + longest} characters, more than the {MAX_LABEL} that their Services may"
        )
        yield Remark(name, message, "the job is accepted and fails then; shorten it", "warning", CLUSTERS, code="job-name")


def injected(spec: Mapping[str, Any]) -> set[str]:
    """The variables that the operator gives every container of this job."""
    elastic = spec.get("elasticPolicy")
    names = _ALWAYS | (_WITH_MASTER if "Master" in spec.get("pytorchReplicaSpecs", {}) else set())
    if elastic is not None:
        names |= _ELASTIC | {variable for field, variable in _ELASTIC_FIELDS.items() if field in elastic}
    return names


def _refusals(spec: Mapping[str, Any], replicas: Mapping[str, Any]) -> Iterator[Remark]:
    """The webhook's rules on all but names and containers."""
    for role in spec.get("pytorchReplicaSpecs", {}):
        if role not in ROLES:
            meant = did_you_mean(role, ROLES)
            hint = f"did you mean {meant}?" if meant else listed(ROLES)
            yield Remark((*REPLICAS, role), f"{shown(role)} is not a replica type", hint, at_key=True, code="unknown-value")
    if "Master" in replicas and replicas["Master"].get("replicas") != 1:
        message = "must be 1, and written: the operator refuses the job otherwise"
        yield Remark((*REPLICAS, "Master", "replicas"), message, code="master-replicas")
    workers = replicas.get("Worker", {}).get("replicas", 1)
    if workers < 1:
        yield Remark(
            (*REPLICAS, "Worker", "replicas"),
            f"must be at least 1, not {workers}",
            "leave Worker out for none",
            code="worker-replicas",
        )
    elastic = spec.get("elasticPolicy")
    if elastic is not None and "Worker" not in replicas:
        yield Remark((*REPLICAS, "Worker"), "must be configured if elasticPolicy is used", code="elastic-workers")
    if elastic is not None and "nProcPerNode" in elastic and "nprocPerNode" in spec:
        message = "must not be used with spec.nprocPerNode"
        yield Remark((*ELASTIC, "nProcPerNode"), message, "leave this one out", at_key=True, code="nproc-twice")
    manager = spec.get("runPolicy", {}).get("managedBy")
    if manager is not None and manager not in MANAGERS:
        message = f"{shown(manager)} is not one of: {listed(MANAGERS)}"
        yield Remark((*RUN_POLICY, "managedBy"), message, "leave it out", code="unknown-value")


def _standstills(spec: Mapping[str, Any]) -> Iterator[Remark]:
    policy = spec.get("runPolicy", {})
    if policy.get("suspend"):
        yield Remark((*RUN_POLICY, "suspend"), "a suspended job never starts by itself", "leave it out", code="suspended")
    if policy.get("managedBy") == MANAGERS[1]:
        message = "the operator leaves the job to Kueue: nothing runs where there is no MultiKueue"
        yield Remark((*RUN_POLICY, "managedBy"), message, "leave it out", code="managed-elsewhere")
    if spec.get("elasticPolicy", {}).get("rdzvConf") == []:
        yield Remark(
            (*ELASTIC, "rdzvConf"), "the operator breaks down on an empty list", "leave it out", code="elastic-rdzv-conf"
        )


def _nonsense(spec: Mapping[str, Any]) -> Iterator[Remark]:
    if not spec.get("pytorchReplicaSpecs", {"": None}):
        message = "there is no replica: the operator accepts the job and does nothing, for ever"
        yield Remark(REPLICAS, message, "name a Master", code="no-replicas")
    for name, least in (("backoffLimit", 0), ("activeDeadlineSeconds", 1)):
        if spec.get("runPolicy", {}).get(name, least) < least:
            message = f"must not be less than {least}, as {spec['runPolicy'][name]} is: the job fails at once"
            yield Remark((*RUN_POLICY, name), message, code="negative-number")


def _check_ranks(spec: Mapping[str, Any], replicas: Mapping[str, Any]) -> Iterator[Remark]:
    """RANK counts replicas and WORLD_SIZE processes; without a Master there is neither."""
    nproc = spec.get("nprocPerNode")
    if nproc is not None and nproc not in ("auto", "cpu", "gpu") and not _COUNT.match(nproc):
        message = f"{shown(nproc)} is neither auto, cpu, gpu nor a number from 1: the operator passes it on as it is"
        meant = did_you_mean(nproc, ("auto", "cpu", "gpu"))
        hint = f"did you mean {meant}?" if meant else 'write a number as text: "2"'
        yield _warning(NPROC, message, hint, code="nproc-value", on=EVERYWHERE)
    elif nproc is not None and _COUNT.match(nproc) and int(nproc) > 1:
        for role, replica in replicas.items():
            container = _pytorch(replica)
            if container and not _launches(container):
                total = sum(each.get("replicas", 1) for each in replicas.values())
                message = (
                    f"WORLD_SIZE will be {total * int(nproc)}, but plain python starts one process a replica: it waits for ever"
                )
                yield _warning(
                    (*REPLICAS, role),
                    message,
                    "start it by torchrun, or leave nprocPerNode out",
                    code="world-size",
                    at_key=True,
                    on=EVERYWHERE,
                )
                break
    workers = replicas.get("Worker")
    if workers and "Master" not in replicas and "elasticPolicy" not in spec and workers.get("replicas", 1) > 1:
        message = (
            f"{workers['replicas']} Workers without a Master learn nothing of each other: no MASTER_ADDR, RANK or WORLD_SIZE"
        )
        yield _warning(
            (*REPLICAS, "Worker"),
            message,
            "add a Master, or an elasticPolicy with torchrun",
            code="no-rendezvous",
            at_key=True,
            on=EVERYWHERE,
        )


def _check_run_policy(policy: Mapping[str, Any], replicas: Mapping[str, Any]) -> Iterator[Remark]:
    restarts = {replica.get("restartPolicy") or "OnFailure" for replica in replicas.values()}
    limit, clean = policy.get("backoffLimit"), policy.get("cleanPodPolicy")
    where: Path = (*RUN_POLICY, "backoffLimit")
    if clean is not None and clean not in ("None", "Running", "All"):
        message = f"{shown(clean)} means All to the operator: every pod goes, and its log"
        yield _warning((*RUN_POLICY, "cleanPodPolicy"), message, "one of: None, Running, All", code="unknown-value")
    if "ExitCode" in restarts and limit is not None and limit > 0:
        yield _warning(
            where, "does not limit restarts of policy ExitCode: they go on for ever", "0 allows none", code="backoff-limit"
        )
    elif restarts & {"OnFailure", "Always"} and limit == 1:
        message = "counts the restarts of all replicas together and ends the job when they reach it: 1 allows none"
        yield _warning(where, message, "write one more than the restarts that may be", code="backoff-limit")
    if "ExitCode" in restarts and "ttlSecondsAfterFinished" in policy:
        message = "a job that failed for good under ExitCode has no completion time and is never deleted"
        yield _warning((*RUN_POLICY, "ttlSecondsAfterFinished"), message, "delete it yourself", code="ttl-exit-code")
    if "activeDeadlineSeconds" in policy:
        message = "the operator looks at it only when something else happens: a job that hangs quietly goes on"
        where = (*RUN_POLICY, "activeDeadlineSeconds")
        yield Remark(where, message, "the pods' own activeDeadlineSeconds is kept", "note", CLUSTERS, code="untimed-deadline")


def _check_elastic(elastic: Mapping[str, Any], replicas: Mapping[str, Any]) -> Iterator[Remark]:
    workers = replicas.get("Worker", {}).get("replicas", 1)
    low, high = elastic_range({"elasticPolicy": elastic, "pytorchReplicaSpecs": replicas}) or (1, 1)
    if low > high:
        message = f"more than maxReplicas, {high}: torchrun refuses PET_NNODES={low}:{high}"
        yield _warning((*ELASTIC, "minReplicas"), message, "exchange the two", code="elastic-range", on=EVERYWHERE)
    elif low < 1:
        message = f"must be at least 1, not {low}: torchrun refuses PET_NNODES={low}:{high}"
        field = "minReplicas" if "minReplicas" in elastic else "maxReplicas"
        yield _warning((*ELASTIC, field), message, "write 1 or more", code="elastic-range", on=EVERYWHERE)
    elif not low <= workers <= high and "Worker" in replicas:
        message = f"{workers} Workers are not within minReplicas {low} and maxReplicas {high}"
        yield _warning(
            (*REPLICAS, "Worker", "replicas"), message, "nobody checks it before torchrun", code="elastic-range", on=EVERYWHERE
        )
    if elastic.get("rdzvBackend", BACKENDS[0]) not in BACKENDS:
        message = f"{shown(elastic['rdzvBackend'])} is passed on as it is, and is no backend that torchrun has"
        yield _warning((*ELASTIC, "rdzvBackend"), message, f"one of: {listed(BACKENDS)}", code="elastic-backend", on=EVERYWHERE)
    if elastic.get("standalone"):
        message = "PET_STANDALONE is set to nothing, and torchrun ends with an error on that"
        yield _warning((*ELASTIC, "standalone"), message, "leave it out", code="elastic-standalone")
    if "nProcPerNode" in elastic:
        message = "deprecated: spec.nprocPerNode has taken its place"
        yield _warning((*ELASTIC, "nProcPerNode"), message, "write that instead", code="deprecated-field", at_key=True)
    if "Master" in replicas:
        message = "with a Master its variables contradict each other: PET_NNODES counts Workers alone, WORLD_SIZE all replicas"
        yield _warning(ELASTIC, message, "leave the Master out, or this", code="elastic-master", at_key=True, on=EVERYWHERE)
    for role in replicas:
        container = _pytorch(replicas[role])
        if role == "Worker" and "Master" not in replicas and container and not _launches(container):
            message = "elastic replicas learn neither RANK nor WORLD_SIZE: only torchrun can start them"
            yield _warning(ELASTIC, message, "start the program by torchrun", code="elastic-python", at_key=True, on=EVERYWHERE)


def _check_replica(replica: Mapping[str, Any], names: set[str], path: Path) -> Iterator[Remark]:
    template, at = replica.get("template", {}), (*path, "template", "spec")
    pod = template.get("spec", {})
    policy = replica.get("restartPolicy") or "OnFailure"
    if policy == "Always":
        message = "a replica that is always started again never ends: the job cannot succeed"
        yield _warning((*path, "restartPolicy"), message, "write OnFailure or Never", code="restart-always", on=EVERYWHERE)
    if pod.get("restartPolicy") and pod["restartPolicy"] != {"ExitCode": "Never"}.get(policy, policy):
        message = f"the replica's own restartPolicy, {policy}, takes its place"
        yield _warning(
            (*at, "restartPolicy"), message, "write it beside replicas", code="overridden-restart-policy", on=EVERYWHERE
        )
    for index, container in enumerate(pod.get("containers", [])):
        yield from _check_variables(container, names, (*at, "containers", index))
        if container.get("name") == "pytorch":
            yield from _check_ports(container.get("ports", []), (*at, "containers", index, "ports"))


def _check_variables(container: Mapping[str, Any], names: set[str], path: Path) -> Iterator[Remark]:
    """The operator's variables come after the container's own, and win."""
    own = {entry.get("name", "") for entry in container.get("env", [])}
    for index, entry in enumerate(container.get("env", [])):
        if entry.get("name") in names:
            message = f"the operator sets {entry['name']} after this, and its value wins"
            yield Remark(
                (*path, "env", index, "name"), message, "leave it out", "warning", EVERYWHERE, code="overridden-variable"
            )
        for name in sorted({*_REFERENCE.findall(entry.get("value", ""))} & (names - own)):
            message = f"$({name}) stays as it is: the operator sets {name} after this variable"
            hint = "refer to it in command or args"
            yield Remark((*path, "env", index, "value"), message, hint, "warning", EVERYWHERE, code="unexpanded-variable")
    for field in ("command", "args"):
        for index, word in enumerate(container.get(field, [])):
            for name in sorted({*_REFERENCE.findall(word)} & (_EVER - names - own)):
                message = f"$({name}) stays as it is: the operator does not set {name} in this job"
                hint = "" if name not in _WITH_MASTER else "it takes a Master"
                yield Remark((*path, field, index), message, hint, "warning", EVERYWHERE, code="unexpanded-variable")


def _check_ports(ports: list[Mapping[str, Any]], path: Path) -> Iterator[Remark]:
    """The operator adds its port unless one has its name; the number does not count."""
    if any(port.get("name") == "pytorchjob-port" for port in ports):
        return
    for index, port in enumerate(ports):
        if port.get("containerPort") == 23456 and port.get("protocol", "TCP") == "TCP":
            message = "the operator adds port 23456 once more, and the replica's Service is refused: two ports of one number"
            yield _warning((*path, index), message, "name this one pytorchjob-port", code="port-name")


def _pytorch(replica: Mapping[str, Any]) -> Mapping[str, Any] | None:
    containers = replica.get("template", {}).get("spec", {}).get("containers", [])
    return next((each for each in containers if each.get("name") == "pytorch"), None)


def _launches(container: Mapping[str, Any]) -> bool:
    return words_may_launch([*container.get("command", ()), *container.get("args", ())])


def _warning(
    path: Path, message: str, hint: str, *, code: str, at_key: bool = False, on: tuple[Engine, ...] = CLUSTERS
) -> Remark:
    return Remark(path, message, hint, "warning", on, at_key, code=code)
