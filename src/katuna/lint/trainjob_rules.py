"""What Kubeflow Trainer refuses in a TrainJob, and what it accepts and then does otherwise (training-operator.md 6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from katuna.errors import EVERYWHERE, LOCAL, RenderRefused
from katuna.manifest.diagnostic import Path, Remark, did_you_mean, listed, one_of, shown
from katuna.manifest.experiment import Manifest
from katuna.manifest.fields import Reach
from katuna.manifest.job import words_may_launch
from katuna.manifest.trainjob import API, BUILT_IN, NODE, RESERVED, Resolved, find_runtime, resolve

RUNTIME: Path = ("spec", "runtimeRef")
TRAINER: Path = ("spec", "trainer")
RUNTIMES = ("ClusterTrainingRuntime", "TrainingRuntime")
MANAGERS = ("trainer.kubeflow.org/trainjob-controller", "kueue.x-k8s.io/multikueue")


def check_train_job(
    spec: Mapping[str, Any], beside: Sequence[Manifest], namespace: str, refused: Reach, stuck: Reach
) -> Iterator[Remark]:
    """Remarks on the spec of a TrainJob, but for those on its containers, which any job has. `refused` and `stuck` are as in
    `check_operator`."""
    for remark in _refusals(spec):
        yield from refused.of(remark)
    if spec.get("suspend"):
        yield from stuck.of(
            Remark(("spec", "suspend"), "a suspended job never starts by itself", "leave it out", code="suspended")
        )
    if spec.get("managedBy") == MANAGERS[1]:
        message = "the job is left to Kueue: nothing runs where there is no MultiKueue"
        yield from stuck.of(Remark(("spec", "managedBy"), message, "leave it out", code="managed-elsewhere"))
    reference = spec.get("runtimeRef", {})
    if not reference.get("name") or reference.get("kind", RUNTIMES[0]) not in RUNTIMES:
        return
    runtime = find_runtime(spec, beside, namespace)
    if runtime is None:
        yield _no_runtime(reference, beside)
        return
    if spec.get("runtimePatches"):
        message, hint = "runtimePatches are not read on this machine", "write them into a TrainingRuntime, and give its file"
        yield Remark(("spec", "runtimePatches"), message, hint, on=LOCAL, at_key=True, code="runtime-patches")
    try:
        resolved = resolve(spec, beside, namespace)
    except RenderRefused as error:
        yield Remark(RUNTIME, str(error), "correct the runtime", on=LOCAL, code="no-runtime")
    except KeyError:
        pass  # The runtime's own document lacks a field that it must have, and is refused for it.
    else:
        yield from _check_nodes(spec, resolved)


def _refusals(spec: Mapping[str, Any]) -> Iterator[Remark]:
    reference, trainer = spec.get("runtimeRef", {}), spec.get("trainer", {})
    if "name" in reference and not reference["name"]:
        yield Remark((*RUNTIME, "name"), "must be specified", f"{BUILT_IN} is everywhere", code="missing-field")
    group = API.partition("/")[0]
    if reference.get("apiGroup", group) != group:
        message = f"{shown(reference['apiGroup'])} has no runtimes: the job is refused"
        yield Remark((*RUNTIME, "apiGroup"), message, f"write {group}, or leave it out", code="unknown-value")
    if reference.get("kind", RUNTIMES[0]) not in RUNTIMES:
        yield one_of((*RUNTIME, "kind"), reference["kind"], RUNTIMES)
    if spec.get("managedBy", MANAGERS[0]) not in MANAGERS:
        yield one_of(("spec", "managedBy"), spec["managedBy"], MANAGERS)
    counts = (("activeDeadlineSeconds", spec, ("spec",)), ("numNodes", trainer, TRAINER), ("numProcPerNode", trainer, TRAINER))
    for name, holder, path in counts:
        if holder.get(name, 1) < 1:
            yield Remark((*path, name), f"must be at least 1, not {holder[name]}", code="out-of-range")
    for index, entry in enumerate(trainer.get("env", [])):
        if entry.get("name") in RESERVED:
            message = f"{entry['name']} is set by the controller: the job is refused"
            about: Path = (*TRAINER, "env", index)
            yield Remark((*TRAINER, "env"), message, "leave it out", code="reserved-variable", about=about)


def _no_runtime(reference: Mapping[str, Any], beside: Sequence[Manifest]) -> Remark:
    kind, name = reference.get("kind", RUNTIMES[0]), reference["name"]
    names = [str(each.get("metadata", {}).get("name", "")) for each in beside if each.get("kind") == kind]
    if kind == RUNTIMES[0]:
        names.append(BUILT_IN)
    meant = did_you_mean(name, names)
    hint = f"did you mean {meant}?" if meant else "give its file beside this one"
    message = f"the {kind} {shown(name)} is not among the files given, and not built in"
    return Remark((*RUNTIME, "name"), message, hint, on=LOCAL, code="no-runtime")


def _check_nodes(spec: Mapping[str, Any], resolved: Resolved) -> Iterator[Remark]:
    """What the nodes learn of each other, and whether the command makes use of it."""
    if resolved.others:
        message = f"only the job that trains runs here, not: {listed(resolved.others)}"
        yield Remark(RUNTIME, message, level="note", on=LOCAL, at_key=True, code="other-containers")
    if resolved.policy not in ("torch", ""):
        message = f"the runtime's mlPolicy is for {resolved.policy}, and only torch runs here"
        yield Remark(RUNTIME, message, "take a runtime with mlPolicy.torch", on=LOCAL, at_key=True, code="no-torch-policy")
    together = resolved.nodes > 1 or resolved.nproc not in ("1", "auto")
    container = next(each for each in resolved.template["spec"]["containers"] if each.get("name") == NODE)
    if not together:
        return
    if "trainer" not in spec:
        message = "without spec.trainer the nodes learn nothing of each other: no PET_NNODES, PET_NODE_RANK or PET_MASTER_ADDR"
        yield Remark(("spec",), message, "write spec.trainer", "warning", EVERYWHERE, at_key=True, code="no-trainer")
    elif not resolved.policy:
        message = "without mlPolicy.torch in the runtime the nodes learn nothing of each other: no PET_ variables"
        hint = "write it there: mlPolicy: {torch: {}}"
        yield Remark(RUNTIME, message, hint, "warning", EVERYWHERE, at_key=True, code="no-torch-policy")
    elif not words_may_launch([*(container.get("command") or ()), *(container.get("args") or ())]):
        message = "plain python learns neither RANK nor WORLD_SIZE from a TrainJob: each node would train alone"
        where: Path = (*TRAINER, "command") if spec["trainer"].get("command") else TRAINER
        yield Remark(where, message, "start the program by torchrun", "warning", EVERYWHERE, at_key=True, code="not-distributed")
