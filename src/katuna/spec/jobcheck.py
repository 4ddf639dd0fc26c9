"""What of a job runs on this machine: kinds, replicas, containers; and which of its fields have no meaning here.

Remarks have paths from the job's own top. Katib looks into no job but a batch/v1 Job's shape, so that nearly all of them are
of the next stage (the API server, the operator) or of this machine.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from katuna.errors import CLUSTERS, KATIB, LOCAL
from katuna.spec.env import Facts, container_env
from katuna.spec.fields import API_SERVER, LATER, REFUSED, STRICT, UNREAD, Reach, examine
from katuna.spec.job import GPU
from katuna.spec.model import Manifest
from katuna.spec.pods import init_containers
from katuna.spec.pytorchjob import REPLICAS, ROLES, check_name, check_operator
from katuna.spec.quantity import quantity
from katuna.spec.remark import NUL, NUL_MESSAGE, Path, Remark, did_you_mean, listed, shown
from katuna.spec.traincheck import check_train_job
from katuna.spec.trainjob import API as TRAINER
from katuna.spec.volumes import read_volumes

KINDS_HERE = (("batch/v1", "Job"), ("kubeflow.org/v1", "PyTorchJob"), (TRAINER, "TrainJob"))
RESTART_POLICIES = {"Job": ("Never", "OnFailure"), "PyTorchJob": ("Always", "OnFailure", "Never", "ExitCode")}

_USED_JOB = {"template", "backoffLimit", "activeDeadlineSeconds", "completionMode", "completions", "parallelism", "suspend"}
_USED_PYTORCHJOB = {"pytorchReplicaSpecs", "runPolicy", "nprocPerNode", "elasticPolicy"}
_USED_RUN_POLICY = {"backoffLimit", "activeDeadlineSeconds", "suspend", "cleanPodPolicy", "managedBy"}
_USED_TRAINJOB = {"runtimeRef", "trainer", "suspend", "activeDeadlineSeconds", "runtimePatches", "managedBy"}
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
            message = f"{shown(version)} has no kind {kind} that runs here"
            yield Remark(("apiVersion",), message, f"write {api}", on=LOCAL, code="job-kind")
            return
    meant = did_you_mean(kind, (name for _, name in KINDS_HERE)) if kind else ""
    hint = f"did you mean {meant}? " if meant else ""
    message = f"trials of kind {shown(kind)} do not run here"
    yield Remark(("kind",), message, f"{hint}kinds here: {here}", on=LOCAL, code="job-kind")


def check_job(manifest: Mapping[str, Any], primary: str, beside: Sequence[Manifest], pass_env: Collection[str]) -> list[Remark]:
    """All remarks on a trial's job, of a kind that runs here; `manifest` may hold placeholders' sample values. `beside` are the
    documents given beside it."""
    is_batch = manifest["kind"] == "Job"
    examined = examine(manifest, reader=STRICT if is_batch else UNREAD)
    checker = _Checker(examined.known, primary, beside, pass_env, LATER, LATER, LATER)
    return [*examined.remarks, *_without(examined.lost, checker.remarks())]


def check_alone(manifest: Mapping[str, Any], beside: Sequence[Manifest] = (), pass_env: Collection[str] = ()) -> list[Remark]:
    """All remarks on a job that is no trial's: what a cluster refuses, what it does otherwise, what means nothing here."""
    examined = examine(manifest, reader=API_SERVER)
    checker = _Checker(examined.known, "", beside, pass_env, REFUSED, stuck=Reach((), CLUSTERS), unusable=Reach(LOCAL, CLUSTERS))
    names = () if manifest["kind"] == "Job" else check_name(examined.known)
    return gathered([*examined.remarks, *_without(examined.lost, [*names, *checker.remarks()])])


def _without(lost: Collection[Path], remarks: Iterable[Remark]) -> Iterator[Remark]:
    """The remarks without those that only repeat what a wrong type or a missing field has caused."""
    for remark in remarks:
        if not any(remark.path[:end] in lost for end in range(1, len(remark.path) + 1)):
            yield remark


class _Checker:
    """`refused` is the reach of what the API server or the operator refuses, `stuck` of what it accepts and never runs, `unusable`
    of what it accepts and nobody can run. `primary` is the name of the container that trains, "" for the kind's own."""

    def __init__(
        self,
        job: Mapping[str, Any],
        primary: str,
        beside: Sequence[Manifest],
        pass_env: Collection[str],
        refused: Reach,
        stuck: Reach,
        unusable: Reach,
    ) -> None:
        self.job, self.primary, self.beside, self.pass_env = job, primary, beside, pass_env
        self.kind, self.refused, self.stuck, self.unusable = job["kind"], refused, stuck, unusable
        self.there = THERE if refused is LATER else Reach(CLUSTERS)
        self.namespace = str(job.get("metadata", {}).get("namespace", "default"))

    def remarks(self) -> Iterator[Remark]:
        spec = self.job.get("spec")
        if spec is None:
            yield from self.refused.of(Remark(("spec",), "must be specified", code="missing-field"))
        elif self.kind == "Job":
            yield from self._batch_job(spec)
        elif self.kind == "PyTorchJob":
            yield from self._pytorch_job(spec)
        else:
            yield from self._train_job(spec)

    def _batch_job(self, spec: Mapping[str, Any]) -> Iterator[Remark]:
        for name in ("completions", "parallelism"):
            if spec.get(name, 1) != 1:
                message = f"{spec[name]} pods of one Job do not run here"
                yield Remark(("spec", name), message, "leave it out, or write 1", on=LOCAL, code="several-pods")
        yield from self._check_numbers(spec, ("spec",), ("activeDeadlineSeconds", "backoffLimit"))
        if spec.get("suspend"):
            suspended = Remark(("spec", "suspend"), "a suspended job never starts by itself", "leave it out", code="suspended")
            yield from self.stuck.of(suspended)
        template = spec.get("template", {})
        policy = template.get("spec", {}).get("restartPolicy", "")
        yield from self._check_restart(policy, ("spec", "template", "spec", "restartPolicy"))
        yield from self._check_template(template, ("spec", "template"), self.primary)
        yield from _ignored(spec, _USED_JOB, ("spec",))

    def _pytorch_job(self, spec: Mapping[str, Any]) -> Iterator[Remark]:
        yield from check_operator(self.job, self.refused, self.stuck, self.unusable)
        replicas = {role: each for role, each in spec.get("pytorchReplicaSpecs", {}).items() if role in ROLES}
        for role, replica in replicas.items():
            path = (*REPLICAS, role)
            yield from self._check_restart(replica.get("restartPolicy", "OnFailure"), (*path, "restartPolicy"))
            # Katib looks at the Master's pod alone.
            yield from self._check_template(
                replica.get("template", {}), (*path, "template"), self.primary if role == "Master" else ""
            )
        yield from _ignored(spec, _USED_PYTORCHJOB, ("spec",))
        yield from _ignored(spec.get("runPolicy", {}), _USED_RUN_POLICY, ("spec", "runPolicy"))

    def _train_job(self, spec: Mapping[str, Any]) -> Iterator[Remark]:
        yield from check_train_job(spec, self.beside, self.namespace, self.refused, self.stuck)
        trainer: Mapping[str, Any] = spec.get("trainer", {})
        path: Path = ("spec", "trainer")
        yield from _check_text(trainer, path)
        yield from self._check_env(trainer, {}, path)
        yield from self._check_resources(trainer.get("resourcesPerNode", {}), (*path, "resourcesPerNode"))
        yield from _ignored(spec, _USED_TRAINJOB, ("spec",))

    def _check_restart(self, policy: str, path: Path) -> Iterator[Remark]:
        known = RESTART_POLICIES[self.kind]
        if policy in known:
            return
        if not policy:
            # Katib takes the Job without it, and a run here needs none.
            message = f"a cluster refuses a {self.kind} without it"
            yield from self.there.of(Remark(path, message, f"write Never; one of: {listed(known)}", code="missing-field"))
            return
        meant = did_you_mean(policy, known)
        hint = f"did you mean {meant}?" if meant else f"one of: {listed(known)}"
        remark = Remark(path, f"{shown(policy)} is not a restart policy of a {self.kind}", hint, code="unknown-value")
        yield from (self.refused if self.kind == "Job" else self.unusable).of(remark)

    def _check_containers(self, template: Mapping[str, Any], path: Path) -> Iterator[Remark]:
        """What the API server and the operator's webhook demand of containers."""
        containers = template.get("spec", {}).get("containers", [])
        if not containers:
            yield from self.refused.of(Remark(path, "must be specified", code="missing-field"))
        elif self.kind == "PyTorchJob" and not any(each.get("name") == "pytorch" for each in containers):
            hint = "name it so, here and in primaryContainerName" if self.primary else "name it so"
            yield from self.refused.of(Remark(path, "the operator wants a container named pytorch", hint, code="container-name"))
        seen: set[str] = set()
        for index, container in enumerate(containers):
            name = container.get("name")
            if name == "":
                yield from self.refused.of(Remark((*path, index, "name"), "must be specified", code="missing-field"))
            elif name in seen:
                message = f"{shown(name)} is a container already"
                remark = Remark((*path, index, "name"), message, "names must differ", code="repeated-name")
                yield from self.refused.of(remark)
            if not container.get("image"):
                message = "must be specified: a cluster refuses the job otherwise"
                yield from self.refused.of(Remark((*path, index, "image"), message, code="missing-field"))
            seen.add(name or "")

    def _check_template(self, template: Mapping[str, Any], path: Path, primary: str) -> Iterator[Remark]:
        """A pod; `primary` is the name that its container which trains must have, "" for any."""
        pod, path = template.get("spec", {}), (*path, "spec")
        where: Path = (*path, "containers")
        containers = pod.get("containers", [])
        yield from self._check_containers(template, where)
        if not containers:
            return
        names = [container.get("name", "") for container in containers]
        if primary and primary not in names:
            meant = did_you_mean(primary, names)
            hint = f"containers: {listed(names)}" if not meant else f"did you mean {meant}?"
            message = f"no container is named {shown(primary)}, which primaryContainerName asks for: trials would never end"
            yield from LATER.of(Remark(where, message, hint, code="no-primary-container"))
        yield from self._check_numbers(pod, path, ("activeDeadlineSeconds", "terminationGracePeriodSeconds"))
        for index, container in enumerate(containers):
            yield from self._check_container(container, template, (*where, index))
        run = init_containers(pod)
        for index, container in enumerate(pod.get("initContainers", [])):
            if container in run:
                yield from self._check_container(container, template, (*path, "initContainers", index))
            else:
                message = "a sidecar among the init containers does not run here"
                hint = "write it among the containers"
                yield _note((*path, "initContainers", index), message, hint, code="other-containers")
        yield from (remark.below(path) for remark in read_volumes(pod, self.beside, self.namespace)[1])
        yield from _ignored(pod, _USED_POD, path)

    def _check_container(self, container: Mapping[str, Any], template: Mapping[str, Any], path: Path) -> Iterator[Remark]:
        yield from self._check_resources(container.get("resources", {}), (*path, "resources"))
        yield from self._check_mounts(container.get("volumeMounts", []), template["spec"], (*path, "volumeMounts"))
        yield from _check_text(container, path)
        yield from self._check_env(container, template.get("metadata", {}), path)
        yield from _ignored(container, _USED_CONTAINER, path)

    def _check_env(self, container: Mapping[str, Any], about: Mapping[str, Any], path: Path) -> Iterator[Remark]:
        """The variables of a container in a pod with metadata `about`."""
        for index, entry in enumerate(container.get("env", [])):
            if not entry.get("name"):
                yield Remark((*path, "env", index, "name"), "must be specified", code="missing-field")
                return
        facts = Facts("pod", self.namespace, about.get("labels", {}), about.get("annotations", {}))
        for remark in container_env(container, facts, self.beside, self.pass_env).remarks:
            yield remark.below(path)

    def _check_mounts(self, mounts: Sequence[Mapping[str, Any]], pod: Mapping[str, Any], path: Path) -> Iterator[Remark]:
        volumes = [volume.get("name", "") for volume in pod.get("volumes", [])]
        for index, mount in enumerate(mounts):
            if "name" in mount and mount["name"] not in volumes:
                meant = did_you_mean(mount["name"], volumes)
                hint = f"did you mean {meant}?" if meant else "name it in the pod's volumes"
                message = f"the pod has no volume {shown(mount['name'])}: a cluster refuses it"
                yield from self.there.of(Remark((*path, index, "name"), message, hint, code="no-volume"))

    def _check_resources(self, resources: Mapping[str, Any], path: Path) -> Iterator[Remark]:
        limits, requests = resources.get("limits", {}), resources.get("requests", {})
        for section, amounts in (("limits", limits), ("requests", requests)):
            if GPU in amounts and (quantity(amounts[GPU]) < 0 or quantity(amounts[GPU]) % 1):
                message = f"must be a whole number, not {amounts[GPU]}"
                yield from self.refused.of(Remark((*path, section, GPU), message, code="resource-amount"))
        if GPU in requests and (GPU not in limits or quantity(requests[GPU]) != quantity(limits[GPU])):
            yield from self.refused.of(Remark((*path, "requests", GPU), "must equal the limit", code="resource-amount"))
        for name in requests:
            if name != GPU and name in limits and quantity(requests[name]) > quantity(limits[name]):
                message = f"{requests[name]} is more than the limit, {limits[name]}"
                yield from self.refused.of(Remark((*path, "requests", name), message, code="resource-amount"))

    def _check_numbers(self, fields: Mapping[str, Any], path: Path, names: Sequence[str]) -> Iterator[Remark]:
        for name in names:
            if fields.get(name, 0) < 0:
                message = f"must not be less than 0, as {fields[name]} is"
                yield from self.refused.of(Remark((*path, name), message, code="negative-number"))


def _note(path: Path, message: str, hint: str = "", code: str = "ignored-field") -> Remark:
    return Remark(path, message, hint, level="note", on=LOCAL, at_key=True, code=code)


THERE = Reach(("cluster",), KATIB)
"""What a cluster refuses of a trial, and a run here has no use for."""

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


def _check_text(container: Mapping[str, Any], path: Path) -> Iterator[Remark]:
    for name in ("command", "args"):
        for index, word in enumerate(container.get(name, [])):
            if NUL in word:
                yield Remark((*path, name, index), f"{shown(word)} {NUL_MESSAGE}", code="nul")
    if NUL in container.get("workingDir", ""):
        yield Remark((*path, "workingDir"), f"{shown(container['workingDir'])} {NUL_MESSAGE}", code="nul")
