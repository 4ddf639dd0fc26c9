"""What a cluster refuses of a job and its pods beyond the fields' types, and what variables of the pod come to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from katuna.errors import CLUSTERS, EVERYWHERE, LOCAL, Finding, RenderRefused, SpecRefused
from katuna.jobs.environment import replica_environment
from katuna.lint.load import Source, lint
from katuna.lint.load_job import load_job
from katuna.manifest.build import job_from_manifest
from toy_jobs import pytorchjob

MASTER = "spec.pytorchReplicaSpecs[Master]"
POD = f"{MASTER}.template.spec"
FIRST = f"{POD}.containers[0]"
ACCEPTED_IN_VAIN = {("error", LOCAL), ("warning", CLUSTERS)}
"""Levels and engines of what the operator takes and no pod can be."""
REFUSED = {("error", EVERYWHERE)}
THERE = {("error", CLUSTERS)}
HERE = {("error", LOCAL)}


def batch(container: Mapping[str, Any] | None = None, pod: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    main = {"name": "main", "image": "i", "command": ["true"], **(container or {})}
    spec = {"template": {"spec": {"restartPolicy": "Never", "containers": [main], **(pod or {})}}, **changes.get("spec", {})}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": changes.get("metadata", {"name": "toy"}), "spec": spec}


def trainjob(runtime: Mapping[str, Any], **trainer: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A TrainJob and the runtime that it stands on: `container`, `pod` and `policy` go where they say."""
    api = "trainer.kubeflow.org/v1alpha1"
    pod = {"containers": [{"name": "node", "image": "i", **runtime.get("container", {})}], **runtime.get("pod", {})}
    job = {
        "name": "node",
        "template": {
            "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
            "spec": {"template": {"spec": pod}},
        },
    }
    spec = {"mlPolicy": runtime.get("policy", {"numNodes": 2, "torch": {}}), "template": {"spec": {"replicatedJobs": [job]}}}
    reference = {"name": "rt", "kind": "TrainingRuntime", **runtime.get("reference", {})}
    train = {"runtimeRef": reference, "trainer": {"command": ["torchrun", "x.py"], **trainer}}
    return (
        {"apiVersion": api, "kind": "TrainJob", "metadata": {"name": "toy"}, "spec": train},
        {"apiVersion": api, "kind": "TrainingRuntime", "metadata": {"name": "rt"}, "spec": runtime.get("spec", spec)},
    )


def findings(*manifests: Mapping[str, Any]) -> list[Finding]:
    return [each for each in lint([Source("f.yaml", yaml.safe_dump_all(map(dict, manifests)))]) if each.level != "note"]


def test_an_empty_restart_policy_is_the_default() -> None:
    assert findings(pytorchjob("pass", restart="")) == []
    assert job_from_manifest(pytorchjob("pass", restart="")).replicas[0].restart_policy == "OnFailure"


def test_an_empty_namespace_is_the_default() -> None:
    job = pytorchjob("pass")
    job["metadata"]["namespace"] = ""
    assert findings(job) == []
    assert job_from_manifest(job).namespace == "default"


def mounts(*given: Mapping[str, Any], volumes: tuple[Mapping[str, Any], ...] = ({"name": "v", "emptyDir": {}},)) -> Any:
    return pytorchjob("pass", container={"volumeMounts": list(given)}, pod={"volumes": list(volumes)})


def variables(*entries: Mapping[str, Any]) -> Any:
    return pytorchjob("pass", container={"env": list(entries)})


FIELD = {"fieldRef": {"fieldPath": "metadata.name"}}
DAMAGED: dict[str, tuple[Any, str, str, set[tuple[str, tuple[str, ...]]]]] = {
    "a Job without a name": (batch(metadata={"labels": {"a": "b"}}), "metadata.name", "missing-field", REFUSED),
    "a Job without metadata": (
        {key: value for key, value in batch().items() if key != "metadata"},
        "metadata.name",
        "missing-field",
        REFUSED,
    ),
    "a Job's name that leads elsewhere": (batch(metadata={"name": "../../x"}), "metadata.name", "job-name", REFUSED),
    "a Job's name that its pods' label cannot hold": (batch(metadata={"name": "a" * 64}), "metadata.name", "job-name", REFUSED),
    "a generated name": (batch(metadata={"generateName": "A b-"}), "metadata.generateName", "job-name", REFUSED),
    "a generated name that is nothing": (batch(metadata={"generateName": "-"}), "metadata.generateName", "job-name", REFUSED),
    "a namespace": (batch(metadata={"name": "a", "namespace": "Team A"}), "metadata.namespace", "job-name", REFUSED),
    "a Job's container": (
        batch({"name": "../x"}),
        "spec.template.spec.containers[0].name",
        "pod-part-name",
        REFUSED,
    ),
    "a volume": (mounts(volumes=({"name": "../v", "emptyDir": {}},)), f"{POD}.volumes[0].name", "pod-part-name", ACCEPTED_IN_VAIN),
    "two volumes of a name": (
        mounts(volumes=({"name": "v", "emptyDir": {}}, {"name": "v", "hostPath": {"path": "/d"}})),
        f"{POD}.volumes[1].name",
        "repeated-name",
        REFUSED,
    ),
    "a container and an init container of a name": (
        pytorchjob("pass", pod={"initContainers": [{"name": "pytorch", "image": "i", "command": ["true"]}]}),
        f"{POD}.initContainers[0].name",
        "repeated-name",
        REFUSED,
    ),
    "two mounts at a place": (
        mounts({"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/a"}),
        f"{FIRST}.volumeMounts[1].mountPath",
        "repeated-name",
        REFUSED,
    ),
    "a mount at no place": (mounts({"name": "v", "mountPath": ""}), f"{FIRST}.volumeMounts[0].mountPath", "bad-path", ACCEPTED_IN_VAIN),
    "a mount at two places": (mounts({"name": "v", "mountPath": "/a:/b"}), f"{FIRST}.volumeMounts[0].mountPath", "bad-path", ACCEPTED_IN_VAIN),
    "a mount of two sub-paths": (
        mounts({"name": "v", "mountPath": "/a", "subPath": "b", "subPathExpr": "c"}),
        f"{FIRST}.volumeMounts[0].subPathExpr",
        "one-source",
        ACCEPTED_IN_VAIN,
    ),
    "a sub-path of a variable that is not there": (
        mounts({"name": "v", "mountPath": "/a", "subPathExpr": "$(RANK)/$(MINE)"}),
        f"{FIRST}.volumeMounts[0].subPathExpr",
        "unexpanded-variable",
        ACCEPTED_IN_VAIN,
    ),
    "a volume of two kinds": (
        mounts(volumes=({"name": "v", "emptyDir": {}, "hostPath": {"path": "/d"}},)),
        f"{POD}.volumes[0]",
        "one-source",
        REFUSED,
    ),
    "two variables of a name": (
        variables({"name": "A", "value": "1"}, {"name": "A", "value": "2"}),
        f"{FIRST}.env[1].name",
        "repeated-name",
        THERE,
    ),
    "a variable of two values": (variables({"name": "A", "value": "1", "valueFrom": FIELD}), f"{FIRST}.env[0].valueFrom", "one-source", REFUSED),
    "a variable of two sources": (
        variables({"name": "A", "valueFrom": {**FIELD, "configMapKeyRef": {"name": "c", "key": "k"}}}),
        f"{FIRST}.env[0].valueFrom",
        "one-source",
        REFUSED,
    ),
    "a variable of no source": (variables({"name": "A", "valueFrom": {}}), f"{FIRST}.env[0].valueFrom", "one-source", REFUSED),
    "variables of no source": (pytorchjob("pass", container={"envFrom": [{"prefix": "A_"}]}), f"{FIRST}.envFrom[0]", "one-source", REFUSED),
    "fewer than no CPU": (
        pytorchjob("pass", container={"resources": {"limits": {"cpu": "-1"}}}),
        f"{FIRST}.resources.limits.cpu",
        "negative-number",
        ACCEPTED_IN_VAIN,
    ),
    "a part of a byte": (
        pytorchjob("pass", container={"resources": {"limits": {"memory": "400m"}}}),
        f"{FIRST}.resources.limits.memory",
        "resource-amount",
        {("warning", EVERYWHERE)},
    ),
    "devices that are not here": (
        pytorchjob("pass", container={"resources": {"limits": {"amd.com/gpu": 1}, "requests": {"amd.com/gpu": "1"}}}),
        f"{FIRST}.resources.limits[amd.com/gpu]",
        "no-device",
        {("warning", LOCAL)},
    ),
    "fewer than no device": (
        pytorchjob("pass", container={"resources": {"limits": {"amd.com/gpu": "-1"}}}),
        f"{FIRST}.resources.limits[amd.com/gpu]",
        "resource-amount",
        REFUSED,
    ),
    "a port that is none": (
        pytorchjob("pass", container={"ports": [{"name": "pytorchjob-port", "containerPort": 70000}]}),
        f"{FIRST}.ports[0].containerPort",
        "out-of-range",
        ACCEPTED_IN_VAIN,
    ),
    "an init container without an image": (
        pytorchjob("pass", pod={"initContainers": [{"name": "before", "command": ["true"]}]}),
        f"{POD}.initContainers[0].image",
        "missing-field",
        THERE,
    ),
    "a host's folder without a path": (
        mounts(volumes=({"name": "v", "hostPath": {"path": ""}},)),
        f"{POD}.volumes[0].hostPath.path",
        "missing-field",
        REFUSED,
    ),
    "a host's folder behind another": (
        mounts(volumes=({"name": "v", "hostPath": {"path": "/a/../b"}},)),
        f"{POD}.volumes[0].hostPath.path",
        "bad-path",
        REFUSED,
    ),
    "a claim without a name": (
        mounts(volumes=({"name": "v", "persistentVolumeClaim": {"claimName": ""}},)),
        f"{POD}.volumes[0].persistentVolumeClaim.claimName",
        "missing-field",
        REFUSED,
    ),
    "a ConfigMap without a name": (
        mounts(volumes=({"name": "v", "configMap": {"optional": True}},)),
        f"{POD}.volumes[0].configMap.name",
        "missing-field",
        REFUSED,
    ),
    "no time for a job": (
        pytorchjob("pass", spec={"runPolicy": {"activeDeadlineSeconds": 0}}),
        "spec.runPolicy.activeDeadlineSeconds",
        "negative-number",
        ACCEPTED_IN_VAIN,
    ),
    "no time for a pod": (
        pytorchjob("pass", pod={"activeDeadlineSeconds": 0}),
        f"{POD}.activeDeadlineSeconds",
        "out-of-range",
        ACCEPTED_IN_VAIN,
    ),
    "a completion mode": (batch(spec={"completionMode": "indexed"}), "spec.completionMode", "unknown-value", REFUSED),
    "indexed completions without a number": (batch(spec={"completionMode": "Indexed"}), "spec.completions", "missing-field", THERE),
    "more replicas than a machine runs": (
        pytorchjob("pass", workers=2**31 - 1),
        "spec.pytorchReplicaSpecs[Worker].replicas",
        "several-pods",
        HERE,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("manifest", "path", "code", "levels"), DAMAGED.values(), ids=DAMAGED)
def test_what_no_pod_can_be(manifest: Any, path: str, code: str, levels: set[tuple[str, tuple[str, ...]]]) -> None:
    found = findings(manifest)
    assert {(each.path, each.code) for each in found} == {(path, code)}
    assert {(each.level, each.on) for each in found} == levels


def test_a_job_may_have_two_variables_of_a_name() -> None:
    manifest = batch({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}]})
    assert findings(manifest) == []
    job = job_from_manifest(manifest)
    assert replica_environment(job, job.replicas[0]) == (("A", "12"),)


def test_two_jobs_of_a_name_in_one_file() -> None:
    (finding,) = findings(pytorchjob("pass"), pytorchjob("pass"))
    assert (finding.path, finding.code) == ("metadata.name", "repeated-name")


@pytest.mark.parametrize(("path", "field"), [(("metadata",), "name"), (("spec", "template", "spec", "containers", 0), "name")])
def test_what_a_cluster_drops_may_leave_too_little(path: tuple[str | int, ...], field: str) -> None:
    manifest = batch()
    holder: Any = manifest
    for part in path:
        holder = holder[part]
    holder["extra"] = "x"
    source = Source("f.yaml", yaml.safe_dump(manifest))
    assert "extra" not in str(load_job([source], as_cluster=True).manifest)
    holder[f"{field}X"] = holder.pop(field)
    with pytest.raises(SpecRefused) as refused:
        load_job([Source("f.yaml", yaml.safe_dump(manifest))], as_cluster=True)
    assert {each.code for each in refused.value.findings} == {"unknown-field", "missing-field"}


@pytest.mark.parametrize("manifest", [pytorchjob("pass"), batch(), trainjob({})[0]], ids=lambda each: each["kind"])
def test_the_items_of_a_kinds_own_list_need_not_say_what_they_are(manifest: Mapping[str, Any]) -> None:
    item = {"metadata": {"name": "Bad"}, "spec": manifest["spec"]}
    found = findings({"apiVersion": manifest["apiVersion"], "kind": f"{manifest['kind']}List", "items": [item]})
    assert ("metadata.name", "job-name") in [(each.path, each.code) for each in found]


@pytest.mark.parametrize("key", ["a b", "..a", ".", "", "a/b", "x" * 254])
def test_a_key_that_no_config_map_has(key: str) -> None:
    (finding,) = findings(batch(), {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {key: "1"}})
    assert (finding.code, finding.on) == ("bad-key", EVERYWHERE)


def test_a_containers_resources_can_only_come_from_the_shell() -> None:
    manifest = variables({"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}})
    (finding,) = findings(manifest)
    assert (finding.on, finding.hint) == (LOCAL, "--pass-env A passes your shell's")


@pytest.mark.parametrize(
    ("field", "value"), [("spec.serviceAccountName", "robot"), ("status.podIPs", "127.0.0.1"), ("status.hostIPs", "127.0.0.1")]
)
def test_more_of_the_pod_as_variables(field: str, value: str) -> None:
    entry = {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": field}}}
    manifest = pytorchjob("pass", container={"env": [entry]}, pod={"serviceAccountName": "robot"})
    assert findings(manifest) == []
    job = job_from_manifest(manifest)
    assert dict(replica_environment(job, job.replicas[0]))["A"] == value


def test_a_sub_path_takes_the_operators_variables_and_only_where_it_is_an_expression() -> None:
    manifest = mounts(
        {"name": "v", "mountPath": "/a", "subPathExpr": "rank-$(RANK)/$$(RANK)"},
        {"name": "v", "mountPath": "/b", "subPath": "$(RANK)$$"},
    )
    assert findings(manifest) == []
    (replica,) = job_from_manifest(manifest).replicas
    assert [mount.sub_path for mount in replica.container.mounts] == ["rank-0/$(RANK)", "$(RANK)$$"]
    with pytest.raises(RenderRefused, match=r"volumeMount /a: subPathExpr '\$\(MINE\)' refers to MINE.* \(name it in env\)"):
        job_from_manifest(mounts({"name": "v", "mountPath": "/a", "subPathExpr": "$(MINE)"}))


# The operator


def elastic(**policy: Any) -> dict[str, Any]:
    manifest = pytorchjob("pass", workers=2, spec={"elasticPolicy": policy}, container={"command": ["torchrun", "x.py"]})
    del manifest["spec"]["pytorchReplicaSpecs"]["Master"]
    return manifest


@pytest.mark.parametrize("domain", ["", ".default", ".default.svc", ".default.svc.cluster.local"])
def test_a_rendezvous_at_a_replica_is_here_however_it_is_named(domain: str) -> None:
    job = job_from_manifest(elastic(rdzvHost=f"toy-worker-0{domain}", rdzvPort=29400))
    assert dict(replica_environment(job, job.replicas[0], port=4711))["PET_RDZV_ENDPOINT"] == "127.0.0.1:4711"
    elsewhere = job_from_manifest(elastic(rdzvHost="toy-worker-0.other.svc"))
    assert dict(replica_environment(elsewhere, elsewhere.replicas[0]))["PET_RDZV_ENDPOINT"] == "toy-worker-0.other.svc:23456"


def test_the_name_of_a_pod_written_out_has_no_address_here() -> None:
    manifest = elastic()
    container = manifest["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]
    container["args"] = ["--rdzv_endpoint=toy-worker-0:29400", "toy-worker-01x", "my-toy-worker-0"]
    container["env"] = [{"name": "STORE", "value": "tcp://toy-worker-0.default:1"}]
    found = findings(manifest)
    assert [each.path.rpartition("containers[0].")[2] for each in found] == ["args[0]", "env[0].value"]
    assert {(each.level, each.on, each.code) for each in found} == {("warning", LOCAL, "cluster-address")}
    assert "$(PET_RDZV_ENDPOINT)" in found[0].hint


@pytest.mark.parametrize(("nproc", "hint"), [("9" * 20, "as text"), ("GPU", "did you mean gpu?")])
def test_a_number_of_processes_that_the_operator_does_not_read(nproc: str, hint: str) -> None:
    (finding,) = findings(pytorchjob("pass", spec={"nprocPerNode": nproc}))
    assert finding.code == "nproc-value"
    assert hint in finding.hint


# Runtimes of a TrainJob

RUNTIMES: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "a ConfigMap that is not here": (
        {"container": {"envFrom": [{"configMapRef": {"name": "c"}}]}},
        "spec.runtimeRef",
        "no-config-map",
        "spec.containers[0].envFrom[0]",
    ),
    "half a GPU": (
        {"container": {"resources": {"limits": {"nvidia.com/gpu": 0.5}}}},
        "spec.runtimeRef",
        "resource-amount",
        "spec.containers[0].resources",
    ),
    "a restart policy": ({"pod": {"restartPolicy": "Always"}}, "spec.runtimeRef", "unknown-value", "spec.restartPolicy"),
    "another framework": ({"policy": {"numNodes": 2, "mpi": {}}}, "spec.runtimeRef", "no-torch-policy", "mlPolicy.torch"),
    "no framework": ({"policy": {"numNodes": 2}}, "spec.runtimeRef", "no-torch-policy", "mlPolicy: {torch: {}}"),
    "nothing in it": ({"spec": None}, "spec.runtimeRef", "no-runtime", "correct the runtime"),
    "too many nodes": ({"policy": {"numNodes": 10**9, "torch": {}}}, "spec.runtimeRef", "several-pods", "smaller number"),
    "another group": ({"reference": {"apiGroup": "kubeflow.org"}}, "spec.runtimeRef.apiGroup", "unknown-value", "trainer.kubeflow.org"),
}  # fmt: skip


@pytest.mark.parametrize(("runtime", "path", "code", "hint"), RUNTIMES.values(), ids=RUNTIMES)
def test_what_a_runtime_has_no_pods_for(runtime: Mapping[str, Any], path: str, code: str, hint: str) -> None:
    found = findings(*trainjob(runtime))
    assert {(each.path, each.code) for each in found} == {(path, code)}
    assert hint in found[0].hint


def test_a_runtime_without_torch_tells_nodes_nothing_of_each_other() -> None:
    for policy, told in (({"numNodes": 2, "torch": {}}, True), ({"numNodes": 2}, False)):
        job, runtime = trainjob({"policy": policy})
        made = job_from_manifest(job, references=[runtime])
        names = {name for replica in made.replicas for name, _ in replica.injected}
        assert {"PET_NNODES" in names, "PET_MASTER_ADDR" in names} == {told}


def test_patches_of_the_runtime_are_refused_here() -> None:
    job, runtime = trainjob({})
    job["spec"]["runtimePatches"] = [{"manager": "lab.example/me", "trainingRuntimeSpec": {}}]
    (finding,) = findings(job, runtime)
    assert (finding.path, finding.code, finding.on) == ("spec.runtimePatches", "runtime-patches", LOCAL)
