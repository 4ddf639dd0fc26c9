"""What of a job runs on this machine: kinds, replicas, containers; and which of its fields have no meaning here.

Remarks have paths from the job's own top. Katib looks into no job but a batch/v1 Job's shape, so that nearly all of them are
of the next stage (the API server, the operator) or of this machine.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from katuna.errors import CLUSTERS, EVERYWHERE, KATIB, LOCAL, RenderRefused
from katuna.lint.pytorchjob_rules import REPLICAS, ROLES, check_name, check_operator, injected
from katuna.lint.trainjob_rules import RUNTIME, TRAINER, check_train_job
from katuna.manifest.diagnostic import NUL, NUL_MESSAGE, Path, Remark, did_you_mean, listed, one_of, path_text, shown
from katuna.manifest.env import Facts, container_env
from katuna.manifest.experiment import Manifest
from katuna.manifest.fields import API_SERVER, LATER, REFUSED, STRICT, UNREAD, Reach, examine
from katuna.manifest.job import GPU, LOOPBACK, unknown_references
from katuna.manifest.names import MAX_LABEL, is_label
from katuna.manifest.pods import init_containers
from katuna.manifest.quantity import quantity
from katuna.manifest.trainjob import API as TRAINER_API
from katuna.manifest.trainjob import NODE, RESERVED, resolve
from katuna.manifest.volumes import read_volumes

KINDS_HERE = (("batch/v1", "Job"), ("kubeflow.org/v1", "PyTorchJob"), (TRAINER_API, "TrainJob"))
MOST_PODS = 512
"""That one machine is asked to run."""
COMPLETION_MODES = ("NonIndexed", "Indexed")
RESTART_POLICIES = {
    "Job": ("Never", "OnFailure"),
    "PyTorchJob": ("Always", "OnFailure", "Never", "ExitCode"),
    "TrainJob": ("Never", "OnFailure"),
}

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
    return gathered([*examined.remarks, *_without(examined.lost, [*check_name(examined.known), *checker.remarks()])])


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
        self.injected = _injected(job) | ({"KATIB_TRIAL_NAME"} if refused is LATER else set())
        # Only a Job's pod is looked at before there is one.
        self.pods = refused if self.kind == "Job" else unusable
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
        mode = spec.get("completionMode", COMPLETION_MODES[0])
        if mode not in COMPLETION_MODES:
            yield from self.refused.of(one_of(("spec", "completionMode"), mode, COMPLETION_MODES))
        elif mode == COMPLETION_MODES[1] and "completions" not in spec:
            message = "must be specified: a cluster refuses an Indexed Job without it"
            yield from self.there.of(Remark(("spec", "completions"), message, "write 1", code="missing-field"))
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
            yield from self._check_restart(replica.get("restartPolicy") or "OnFailure", (*path, "restartPolicy"))
            yield from _check_number_of_pods(replica.get("replicas", 1), (*path, "replicas"))
            # Katib looks at the Master's pod alone.
            yield from self._check_template(
                replica.get("template", {}), (*path, "template"), self.primary if role == "Master" else ""
            )
        yield from _ignored(spec, _USED_PYTORCHJOB, ("spec",))
        yield from _ignored(spec.get("runPolicy", {}), _USED_RUN_POLICY, ("spec", "runPolicy"))

    def _train_job(self, spec: Mapping[str, Any]) -> Iterator[Remark]:
        yield from check_train_job(spec, self.beside, self.namespace, self.refused, self.stuck)
        trainer: Mapping[str, Any] = spec.get("trainer", {})
        resources = trainer.get("resourcesPerNode", {})
        remarks = [
            *_check_text(trainer, TRAINER),
            *self._check_env({"name": NODE, **trainer, "resources": resources}, {}, TRAINER),
            *self._check_resources(resources, (*TRAINER, "resourcesPerNode")),
            *self._check_hosts(trainer, TRAINER),
        ]
        yield from remarks
        told = {remark.message for remark in remarks}
        yield from (remark for remark in self._check_runtime(spec) if remark.message not in told)
        yield from _ignored(spec, _USED_TRAINJOB, ("spec",))

    def _check_runtime(self, spec: Mapping[str, Any]) -> Iterator[Remark]:
        """The pods that the runtime makes: what is wrong in them is at the reference to it."""
        try:
            resolved = resolve(spec, self.beside, self.namespace)
        except (RenderRefused, KeyError):
            return  # There is a remark on that.
        written = "numNodes" in spec.get("trainer", {})
        yield from _check_number_of_pods(resolved.nodes, (*TRAINER, "numNodes") if written else RUNTIME)
        pod = resolved.template["spec"]
        found = [
            *self._check_restart(pod.get("restartPolicy") or "OnFailure", ("spec", "restartPolicy")),
            *self._check_template(resolved.template, (), NODE),
        ]
        for remark in found:
            if remark.level != "note":
                hint = f"{remark.hint}{'; ' if remark.hint else ''}it stands in the runtime, at {path_text(remark.path)}"
                yield replace(remark, path=RUNTIME, hint=hint, at_key=True)

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
        yield from self.pods.of(remark)

    def _check_containers(self, template: Mapping[str, Any], path: Path) -> Iterator[Remark]:
        """What the API server and the operator's webhook demand of containers."""
        containers = template.get("spec", {}).get("containers", [])
        if not containers:
            yield from self.refused.of(Remark(path, "must be specified", code="missing-field"))
        elif self.kind == "PyTorchJob" and not any(each.get("name") == "pytorch" for each in containers):
            hint = "name it so, here and in primaryContainerName" if self.primary else "name it so"
            yield from self.refused.of(Remark(path, "the operator wants a container named pytorch", hint, code="container-name"))
        for index, container in enumerate(containers):
            if not container.get("image"):
                message = "must be specified: a cluster refuses the job otherwise"
                yield from self.refused.of(Remark((*path, index, "image"), message, code="missing-field"))

    def _check_names(self, pod: Mapping[str, Any], path: Path) -> Iterator[Remark]:
        """What containers and volumes are called: a label, and no two of them the same."""
        seen: set[tuple[str, str]] = set()
        for field in ("containers", "initContainers", "volumes"):
            what = "volume" if field == "volumes" else "container"
            for index, each in enumerate(pod.get(field, [])):
                name, where = each.get("name", ""), (*path, field, index, "name")
                if not name:
                    yield from self.refused.of(Remark(where, "must be specified", code="missing-field"))
                elif not is_label(name):
                    message = f"{shown(name)} is no DNS-1123 label of at most {MAX_LABEL} characters"
                    remark = Remark(where, message, "lower case letters, digits and '-'", code="pod-part-name")
                    yield from self.pods.of(remark)
                elif (what, name) in seen:
                    message = f"{shown(name)} is a {what} already"
                    yield from self.refused.of(Remark(where, message, "names must differ", code="repeated-name"))
                seen.add((what, name))

    def _check_template(self, template: Mapping[str, Any], path: Path, primary: str) -> Iterator[Remark]:
        """A pod; `primary` is the name that its container which trains must have, "" for any."""
        pod, path = template.get("spec", {}), (*path, "spec")
        where: Path = (*path, "containers")
        containers = pod.get("containers", [])
        yield from self._check_containers(template, where)
        if not containers:
            return
        yield from self._check_names(pod, path)
        names = [container.get("name", "") for container in containers]
        if primary and primary not in names:
            meant = did_you_mean(primary, names)
            hint = f"containers: {listed(names)}" if not meant else f"did you mean {meant}?"
            message = f"no container is named {shown(primary)}, which primaryContainerName asks for: trials would never end"
            yield from LATER.of(Remark(where, message, hint, code="no-primary-container"))
        yield from self._check_numbers(pod, path, ("activeDeadlineSeconds", "terminationGracePeriodSeconds"))
        if pod.get("activeDeadlineSeconds") == 0:
            remark = Remark((*path, "activeDeadlineSeconds"), "must be at least 1, not 0", "leave it out", code="out-of-range")
            yield from self.pods.of(remark)
        for index, container in enumerate(containers):
            yield from self._check_container(container, template, (*where, index))
        run = init_containers(pod)
        for index, container in enumerate(pod.get("initContainers", [])):
            if not container.get("image"):
                message = "must be specified: a cluster refuses the pod otherwise"
                yield from self.there.of(Remark((*path, "initContainers", index, "image"), message, code="missing-field"))
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
        yield from self._check_env(container, template, path)
        yield from self._check_ports(container.get("ports", []), (*path, "ports"))
        yield from self._check_hosts(container, path)
        yield from _ignored(container, _USED_CONTAINER, path)

    def _check_env(self, container: Mapping[str, Any], template: Mapping[str, Any], path: Path) -> Iterator[Remark]:
        """The variables of a container of a pod."""
        seen: set[str] = set()
        for index, entry in enumerate(container.get("env", [])):
            where: Path = (*path, "env", index, "name")
            if not entry.get("name"):
                yield Remark(where, "must be specified", code="missing-field")
                return
            if entry["name"] in seen and self.kind != "Job":
                message = f"{shown(entry['name'])} is a variable already: an API server refuses a {self.kind} with two of a name"
                yield from self.there.of(Remark(where, message, "leave out the first: the last wins", code="repeated-name"))
            seen.add(entry["name"])
        about = template.get("metadata", {})
        facts = Facts("pod", self.namespace, about.get("labels", {}), about.get("annotations", {}), template.get("spec", {}))
        env = container_env(container, facts, self.beside, self.pass_env)
        for remark in env.remarks:
            yield remark.below(path)
        known = {*self.injected, *env.secrets, *(name for name, _ in env.pairs)}
        for index, mount in enumerate(container.get("volumeMounts", [])):
            for name in unknown_references(mount.get("subPathExpr", ""), known):
                message = f"$({name}) refers to no variable of the container: it would never start"
                remark = Remark(
                    (*path, "volumeMounts", index, "subPathExpr"), message, "name it in env", code="unexpanded-variable"
                )
                yield from self.pods.of(remark)

    def _check_mounts(self, mounts: Sequence[Mapping[str, Any]], pod: Mapping[str, Any], path: Path) -> Iterator[Remark]:
        volumes = [volume.get("name", "") for volume in pod.get("volumes", [])]
        seen: set[str] = set()
        for index, mount in enumerate(mounts):
            where = mount.get("mountPath", "")
            if where in seen:
                message = f"{shown(where)} is the place of another mount already"
                remark = Remark((*path, index, "mountPath"), message, "mount it elsewhere", code="repeated-name")
                yield from self.refused.of(remark)
            elif not where or ":" in where:
                message = f"{shown(where)} is no path of a mount"
                remark = Remark((*path, index, "mountPath"), message, "a path without ':'", code="bad-path")
                yield from self.pods.of(remark)
            seen.add(where)
            if mount.get("subPath") and mount.get("subPathExpr"):
                message = "a mount has a subPath or a subPathExpr, not both"
                yield from self.pods.of(Remark((*path, index, "subPathExpr"), message, "keep one of the two", code="one-source"))
            if "name" in mount and mount["name"] not in volumes:
                meant = did_you_mean(mount["name"], volumes)
                hint = f"did you mean {meant}?" if meant else "name it in the pod's volumes"
                message = f"the pod has no volume {shown(mount['name'])}: a cluster refuses it"
                yield from self.there.of(Remark((*path, index, "name"), message, hint, code="no-volume"))

    def _check_resources(self, resources: Mapping[str, Any], path: Path) -> Iterator[Remark]:
        """Names with a slash are devices: whole, and as many asked for as the limit says."""
        limits, requests = resources.get("limits", {}), resources.get("requests", {})
        for section, amounts in (("limits", limits), ("requests", requests)):
            for name, amount in amounts.items():
                where: Path = (*path, section, name)
                if "/" in name and (quantity(amount) < 0 or quantity(amount) % 1):
                    message = f"must be a whole number, not {amount}"
                    yield from self.refused.of(Remark(where, message, code="resource-amount"))
                elif quantity(amount) < 0:
                    message = f"must not be less than 0, as {amount} is"
                    yield from self.pods.of(Remark(where, message, code="negative-number"))
                elif name == "memory" and quantity(amount) % 1:
                    message = f"{shown(amount)} is a part of a byte: m means thousandths"
                    yield Remark(where, message, "write Mi for mebibytes", "warning", EVERYWHERE, code="resource-amount")
        for name in requests:
            if "/" in name and (name not in limits or quantity(requests[name]) != quantity(limits[name])):
                yield from self.refused.of(Remark((*path, "requests", name), "must equal the limit", code="resource-amount"))
            elif name in limits and quantity(requests[name]) > quantity(limits[name]):
                message = f"{requests[name]} is more than the limit, {limits[name]}"
                yield from self.refused.of(Remark((*path, "requests", name), message, code="resource-amount"))
        for name in limits:
            if "/" in name and name != GPU and quantity(limits[name]) > 0:
                message = f"no {name} is given out here: the container sees no such device"
                hint = f"write {GPU} in its place"
                yield Remark((*path, "limits", name), message, hint, "warning", LOCAL, at_key=True, code="no-device")

    def _check_numbers(self, fields: Mapping[str, Any], path: Path, names: Sequence[str]) -> Iterator[Remark]:
        for name in names:
            if fields.get(name, 0) < 0:
                message = f"must not be less than 0, as {fields[name]} is"
                yield from self.refused.of(Remark((*path, name), message, code="negative-number"))

    def _check_hosts(self, container: Mapping[str, Any], path: Path) -> Iterator[Remark]:
        """Names of the job's own pods as written out: only what controllers inject is put in this machine's terms."""
        name = self.job.get("metadata", {}).get("name", "")
        form = re.compile(rf"(?<![\w.-]){re.escape(name)}-(master|worker|node-0)-[0-9]+(?![\w-])")
        texts: list[tuple[Path, str]] = [
            *(((field, index), word) for field in ("command", "args") for index, word in enumerate(container.get(field, []))),
            *((("env", index, "value"), entry.get("value", "")) for index, entry in enumerate(container.get("env", []))),
        ]
        known = {"PET_MASTER_ADDR": "$(PET_MASTER_ADDR):$(PET_MASTER_PORT)", "PET_RDZV_ENDPOINT": "$(PET_RDZV_ENDPOINT)"}
        instead = next((text for variable, text in known.items() if variable in self.injected), "")
        for where, text in texts if name and self.kind != "Job" else ():
            found = form.search(text)
            if found:
                message = f"{shown(found[0])} has an address in a cluster alone: pods find each other at {LOOPBACK} here"
                hint = f"write {instead} in command or args" if instead else "leave it out"
                yield Remark((*path, *where), message, hint, "warning", LOCAL, code="cluster-address")

    def _check_ports(self, ports: Sequence[Mapping[str, Any]], path: Path) -> Iterator[Remark]:
        for index, port in enumerate(ports):
            if not 1 <= port.get("containerPort", 1) <= 65535:
                message = f"must be between 1 and 65535, not {port['containerPort']}"
                yield from self.pods.of(Remark((*path, index, "containerPort"), message, code="out-of-range"))


def _injected(job: Mapping[str, Any]) -> set[str]:
    """The variables that controllers give the containers."""
    if job["kind"] == "PyTorchJob":
        return injected(job.get("spec", {}))
    indexed = job["kind"] == "TrainJob" or job.get("spec", {}).get("completionMode") == "Indexed"
    return {*(RESERVED if job["kind"] == "TrainJob" else ()), *(("JOB_COMPLETION_INDEX",) if indexed else ())}


def _check_number_of_pods(number: int, path: Path) -> Iterator[Remark]:
    if number > MOST_PODS:
        message = f"one machine does not run {number} pods, but {MOST_PODS} at most"
        yield Remark(path, message, "write a smaller number", on=LOCAL, code="several-pods")


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
