"""What of a trial's job runs on this machine: kinds, replicas, containers; and which of its fields have no meaning here.

Remarks have paths from the job's own top. Katib looks into no job but a batch/v1 Job's shape, so that nearly all of them are
of the next stage (the API server, the operator) or of this machine.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from katuna.errors import KATIB, LOCAL
from katuna.spec.env import Facts, container_env
from katuna.spec.fields import examine
from katuna.spec.job import GPU
from katuna.spec.model import Manifest
from katuna.spec.quantity import quantity
from katuna.spec.remark import NUL, NUL_MESSAGE, Path, Remark, did_you_mean, listed, shown

KINDS_HERE = (("batch/v1", "Job"), ("kubeflow.org/v1", "PyTorchJob"))
RESTART_POLICIES = {"Job": ("Never", "OnFailure"), "PyTorchJob": ("Always", "OnFailure", "Never", "ExitCode")}

_USED_JOB = {"template", "backoffLimit", "activeDeadlineSeconds", "completionMode", "completions", "parallelism", "suspend"}
_USED_PYTORCHJOB = {"pytorchReplicaSpecs", "runPolicy", "nprocPerNode"}
_USED_RUN_POLICY = {"backoffLimit", "activeDeadlineSeconds", "suspend"}
_USED_POD = {"containers", "initContainers", "activeDeadlineSeconds", "terminationGracePeriodSeconds", "restartPolicy", "volumes"}
_USED_CONTAINER = {"name", "image", "command", "args", "env", "envFrom", "workingDir", "resources", "ports", "volumeMounts"}


def check_kind(manifest: Mapping[str, Any]) -> Iterator[Remark]:
    """Whether the kind is one that runs here; nothing else can be said of one that is not."""
    version, kind = manifest.get("apiVersion", ""), manifest.get("kind", "")
    if (version, kind) in KINDS_HERE:
        return
    here = listed(f"{name} ({api})" for api, name in KINDS_HERE)
    for api, name in KINDS_HERE:
        if name == kind:
            yield Remark(("apiVersion",), f"{shown(version)} has no kind {kind} that runs here", f"write {api}", on=LOCAL)
            return
    meant = did_you_mean(kind, (name for _, name in KINDS_HERE)) if kind else ""
    hint = f"did you mean {meant}? " if meant else ""
    yield Remark(("kind",), f"trials of kind {shown(kind)} do not run here", f"{hint}kinds here: {here}", on=LOCAL)


def check_job(
    manifest: Mapping[str, Any], primary: str, config_maps: Sequence[Manifest], pass_env: Collection[str]
) -> list[Remark]:
    """All remarks on a job of a kind that runs here; `manifest` may hold placeholders' sample values."""
    is_batch = manifest["kind"] == "Job"
    examined = examine(manifest, decoded_by_katib=is_batch)
    remarks = list(examined.remarks)
    spec = examined.known.get("spec")
    if not spec:
        return remarks or [Remark(("spec",), "must be specified")]
    checker = _Checker(examined.known, primary, config_maps, pass_env)
    remarks += checker.batch_job(spec) if is_batch else checker.pytorch_job(spec)
    return remarks


_REPLICAS: Path = ("spec", "pytorchReplicaSpecs")


class _Checker:
    def __init__(self, job: Mapping[str, Any], primary: str, config_maps: Sequence[Manifest], pass_env: Collection[str]) -> None:
        self.job, self.primary, self.config_maps, self.pass_env = job, primary, config_maps, pass_env
        self.kind = job["kind"]

    def batch_job(self, spec: Mapping[str, Any]) -> Iterator[Remark]:
        for name in ("completions", "parallelism"):
            if spec.get(name, 1) != 1:
                yield _local(
                    ("spec", name), f"{spec[name]} pods do not run here yet: a trial is one process", "leave it out, or write 1"
                )
        yield from _check_run_limits(spec, ("spec",))
        if "template" not in spec:
            yield _local(("spec", "template"), "must be specified")
            return
        policy = (spec["template"].get("spec") or {}).get("restartPolicy", "")
        where: Path = ("spec", "template", "spec", "restartPolicy")
        yield from self._check_restart(policy, where)
        yield from self._check_template(spec["template"], ("spec", "template"))
        yield from _ignored(spec, _USED_JOB, ("spec",))

    def pytorch_job(self, spec: Mapping[str, Any]) -> Iterator[Remark]:
        policy = spec.get("runPolicy", {})
        yield from _check_run_limits(policy, ("spec", "runPolicy"))
        if "elasticPolicy" in spec:
            yield _local(("spec", "elasticPolicy"), "elastic jobs do not run here", "leave it out", at_key=True)
        replicas, path = spec.get("pytorchReplicaSpecs", {}), _REPLICAS
        for role in replicas:
            if role == "Worker":
                hint = "leave the Worker out, so that the Master trains alone"
                yield _local((*path, role), "several replicas do not run here yet: a trial is one process", hint, at_key=True)
            elif role != "Master":
                meant = did_you_mean(role, ("Master", "Worker"))
                yield _local(
                    (*path, role),
                    f"{shown(role)} is not a replica type",
                    f"did you mean {meant}?" if meant else "Master or Worker",
                    at_key=True,
                )
        master = replicas.get("Master")
        if master is None:
            yield _local(path, "there is no Master: it is the replica that runs here", "name the replica Master")
            return
        path = (*path, "Master")
        if master.get("replicas") != 1:
            yield _local((*path, "replicas"), "must be 1, and written: the operator refuses the job otherwise")
        yield from self._check_restart(master.get("restartPolicy", "OnFailure"), (*path, "restartPolicy"))
        if "template" not in master:
            yield _local((*path, "template"), "must be specified")
            return
        yield from self._check_template(master["template"], (*path, "template"))
        yield from _ignored(spec, _USED_PYTORCHJOB, ("spec",))
        yield from _ignored(policy, _USED_RUN_POLICY, ("spec", "runPolicy"))

    def _check_restart(self, policy: str, path: Path) -> Iterator[Remark]:
        known = RESTART_POLICIES[self.kind]
        if policy in known:
            return
        if not policy:
            yield Remark(
                path, f"a cluster refuses a {self.kind} without it", f"write Never; one of: {listed(known)}", "warning", KATIB
            )
        else:
            meant = did_you_mean(policy, known)
            hint = f"did you mean {meant}?" if meant else f"one of: {listed(known)}"
            yield _local(path, f"{shown(policy)} is not a restart policy of a {self.kind}", hint)

    def _check_template(self, template: Mapping[str, Any], path: Path) -> Iterator[Remark]:
        pod, path = template.get("spec", {}), (*path, "spec")
        containers = pod.get("containers", [])
        names = [container.get("name", "") for container in containers]
        if not containers:
            yield _local((*path, "containers"), "must be specified")
            return
        if self.kind == "PyTorchJob" and "pytorch" not in names:
            yield _local(
                (*path, "containers"),
                "the operator wants a container named pytorch",
                "name it so, here and in primaryContainerName",
            )
        elsewhere = bool(self.primary) and self.primary not in names
        if elsewhere:
            meant = did_you_mean(self.primary, names)
            hint = f"containers: {listed(names)}" if not meant else f"did you mean {meant}?"
            message = f"no container is named {shown(self.primary)}, which primaryContainerName asks for: trials would never end"
            yield _local((*path, "containers"), message, hint)
        yield from _check_names(containers, (*path, "containers"))
        yield from _check_numbers(pod, path, ("activeDeadlineSeconds", "terminationGracePeriodSeconds"))
        others = [name for name in names if name and name != self.primary]
        others += [container.get("name", "") for container in pod.get("initContainers", [])]
        if others and self.primary and not elsewhere:
            yield _note((*path, "containers"), f"only the primary container runs here, not: {listed(others)}")
        for index, container in enumerate(containers):
            if container.get("name") == self.primary:
                yield from self._check_container(container, template, (*path, "containers", index))
        yield from _ignored(pod, _USED_POD, path)

    def _check_container(self, container: Mapping[str, Any], template: Mapping[str, Any], path: Path) -> Iterator[Remark]:
        yield from _check_text(container, path)
        metadata = self.job.get("metadata", {})
        about = template.get("metadata", {})
        facts = Facts("pod", metadata.get("namespace", "default"), about.get("labels", {}), about.get("annotations", {}))
        for index, entry in enumerate(container.get("env", [])):
            if not entry.get("name"):
                yield _local((*path, "env", index, "name"), "must be specified")
                return
        for remark in container_env(container, facts, self.config_maps, self.pass_env).remarks:
            yield remark.below(path)
        yield from _check_gpus(container.get("resources", {}), (*path, "resources"))
        mounts = container.get("volumeMounts", [])
        if mounts:
            paths = listed(str(mount.get("mountPath", "")) for mount in mounts)
            yield _note(
                (*path, "volumeMounts"), f"volumes are not mounted here: {paths}", "--map /IN/IMAGE=./HERE gives a path a folder"
            )
        yield from _ignored(container, _USED_CONTAINER, path)


def _local(path: Path, message: str, hint: str = "", at_key: bool = False) -> Remark:
    return Remark(path, message, hint, on=LOCAL, at_key=at_key)


def _note(path: Path, message: str, hint: str = "") -> Remark:
    return Remark(path, message, hint, level="note", on=LOCAL, at_key=True)


IGNORED = "ignored here"
"""The message of notes that load gathers into one a file."""


def _ignored(fields: Mapping[str, Any], used: Collection[str], path: Path) -> Iterator[Remark]:
    for name in fields:
        if name not in used:
            yield _note((*path, name), IGNORED)


def gathered(remarks: Sequence[Remark]) -> list[Remark]:
    """The remarks with all that say "ignored here" made one, which names the fields."""
    ignored = [remark for remark in remarks if remark.message == IGNORED]
    if not ignored:
        return list(remarks)
    names = list(dict.fromkeys(str(remark.path[-1]) for remark in ignored))
    one = (
        ignored[0] if len(names) == 1 else _note(ignored[0].path[:1], f"these fields mean nothing to a run here: {listed(names)}")
    )
    one = replace(one, message=one.message.replace(IGNORED, "means nothing to a run here"))
    return [remark for remark in remarks if remark.message != IGNORED] + [one]


def _check_run_limits(policy: Mapping[str, Any], path: Path) -> Iterator[Remark]:
    yield from _check_numbers(policy, path, ("activeDeadlineSeconds", "backoffLimit"))
    if policy.get("suspend"):
        yield _local((*path, "suspend"), "a suspended job never starts", "leave it out")


def _check_numbers(fields: Mapping[str, Any], path: Path, names: Sequence[str]) -> Iterator[Remark]:
    for name in names:
        if fields.get(name, 0) < 0:
            yield _local((*path, name), f"must not be less than 0, as {fields[name]} is")


def _check_text(container: Mapping[str, Any], path: Path) -> Iterator[Remark]:
    for name in ("command", "args"):
        for index, word in enumerate(container.get(name, [])):
            if NUL in word:
                yield Remark((*path, name, index), f"{shown(word)} {NUL_MESSAGE}")
    if NUL in container.get("workingDir", ""):
        yield Remark((*path, "workingDir"), f"{shown(container['workingDir'])} {NUL_MESSAGE}")


def _check_names(containers: Sequence[Mapping[str, Any]], path: Path) -> Iterator[Remark]:
    seen: set[str] = set()
    for index, container in enumerate(containers):
        name = container.get("name", "")
        if not name:
            yield _local((*path, index, "name"), "must be specified")
        elif name in seen:
            yield _local((*path, index, "name"), f"{shown(name)} is a container already", "names must differ")
        if not container.get("image"):
            yield _local((*path, index, "image"), "must be specified: a cluster refuses the job otherwise")
        seen.add(name)


def _check_gpus(resources: Mapping[str, Any], path: Path) -> Iterator[Remark]:
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    for section, amounts in (("limits", limits), ("requests", requests)):
        if GPU in amounts and (quantity(amounts[GPU]) < 0 or quantity(amounts[GPU]) % 1):
            yield _local((*path, section, GPU), f"must be a whole number, not {amounts[GPU]}")
    if GPU in requests and (GPU not in limits or quantity(requests[GPU]) != quantity(limits[GPU])):
        yield _local((*path, "requests", GPU), "must equal the limit")
