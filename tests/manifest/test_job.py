from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from katuna.errors import RenderRefused
from katuna.jobs.environment import injected_into, replica_environment, substitutions
from katuna.manifest.build import job_from_manifest
from katuna.manifest.hidden import Hidden, revealed
from katuna.manifest.job import Container, Job, expand, expand_text
from katuna.manifest.quantity import quantity
from katuna.manifest.yamltext import Source, parse


def manifest(text: str) -> Any:
    documents, findings = parse(Source("f.yaml", text))
    assert not findings
    return documents[0].value


def batch(container: str = "", spec: str = "", pod: str = "", config_maps: tuple[Any, ...] = (), **options: Any) -> Job:
    """A Job named trial-1; the arguments are YAML flow fields."""
    text = f"""
apiVersion: batch/v1
kind: Job
metadata: {{name: trial-1, namespace: lab}}
spec: {{template: {{metadata: {{labels: {{team: vision}}}}, spec: {{containers: [
    {{name: helper, image: h}}, {{name: trainer, image: "i:1"{container and ", "}{container}}}]{pod and ", "}{pod}}}}}{spec and ", "}{spec}}}
"""
    return job_from_manifest(manifest(text), "trainer", config_maps, **options)


def environment(job: Job, **options: Any) -> dict[str, str]:
    return dict(replica_environment(job, job.replicas[0], **options))


def test_what_the_operator_starts(operator_truth: list[dict[str, Any]]) -> None:
    """Pods, restart policies and every container's names, values, order and duplicates, for all jobs that got pods."""
    compared = 0
    for entry in operator_truth:
        if not entry.get("pods"):
            continue
        ours = job_from_manifest(parse(Source(entry["file"], entry["text"]))[0][entry["doc"]].value, "pytorch")
        assert {replica.pod_name.replace(ours.name, "JOB") for replica in ours.replicas} == set(entry["pods"]), entry["file"]
        for replica in ours.replicas:
            pod = replica.pod_name.replace(ours.name, "JOB")
            policy = "Never" if replica.restart_policy == "ExitCode" else replica.restart_policy
            assert policy == entry["restartPolicy"][pod], entry["file"]
            # A worker's init-pytorch waits for the Master's name, which the launcher does by itself.
            inits = [container.name for container in replica.init_containers]
            assert inits == [name for name in entry["init"][pod] if name != "init-pytorch"], entry["file"]
            containers = {container.name: container for container in (replica.container, *replica.sidecars)}
            assert set(containers) == set(entry["pods"][pod]), entry["file"]
            for name, recorded in entry["pods"][pod].items():
                # "valueFrom" is how the recording shows an entry with neither value nor source.
                theirs = [
                    (key, "" if value == "valueFrom" else value.replace("JOB", ours.name)) for key, value in recorded["env"]
                ]
                container = containers[name]
                assert [*container.env, *injected_into(ours, replica, container)] == theirs, entry["file"]
                argv = [*(recorded["command"] or []), *(recorded["args"] or [])]
                assert [*container.command, *container.args] == argv, entry["file"]
                compared += 1
    assert compared > 60


def job_of(spec: str) -> Job:
    text = f"apiVersion: kubeflow.org/v1\nkind: PyTorchJob\nmetadata: {{name: t}}\nspec: {spec}"
    return job_from_manifest(manifest(text))


ELASTIC = """{elasticPolicy: {minReplicas: 1, maxReplicas: 3}, pytorchReplicaSpecs: {Worker: {replicas: 2, template: {spec: {containers: [
  {name: pytorch, image: i, command: [torchrun, --rdzv-endpoint=$(PET_RDZV_ENDPOINT), a.py]}]}}}}}"""


def operators(spec: str) -> dict[str, str]:
    return dict(job_of(spec).replicas[0].injected)


def test_null_is_as_if_the_field_were_not_there() -> None:
    replica = (
        "template: {spec: {containers: [{name: pytorch, image: i, resources: {limits: {nvidia.com/gpu: null, cpu: null}}}]}}"
    )
    with_null = f"{{nprocPerNode: null, pytorchReplicaSpecs: {{Master: {{replicas: 1, {replica}}}, Worker: {{replicas: null, {replica}}}}}}}"
    job = job_of(with_null)
    assert len(job.replicas) == 2
    assert job == job_of(re.sub(r"[a-zA-Z./]+: null,? ?", "", with_null))
    assert dict(job.replicas[0].injected)["PET_NPROC_PER_NODE"] == "auto"
    elastic = ELASTIC.replace("maxReplicas: 3", "maxReplicas: 3, rdzvHost: meet, rdzvPort: null")
    assert operators(elastic)["PET_RDZV_ENDPOINT"] == "meet:23456"


@pytest.mark.parametrize(
    ("field", "name", "value"),
    [
        ("rdzvConf: [{key: a, value: b}, {key: c}, {value: d}]", "PET_RDZV_CONF", "a=b,c=,=d"),
        ("rdzvBackend: ''", "PET_RDZV_BACKEND", ""),
        ("rdzvHost: ''", "PET_RDZV_ENDPOINT", ":23456"),
        ("rdzvPort: 9", "PET_RDZV_ENDPOINT", "t-worker-0:9"),
    ],
)
def test_what_an_elastic_policy_leaves_open_is_passed_on_so(field: str, name: str, value: str) -> None:
    assert operators(ELASTIC.replace("maxReplicas: 3", f"maxReplicas: 3, {field}"))[name] == value


@pytest.mark.parametrize(
    ("nproc", "world"),
    [("3", "3"), ("+3", "3"), ("03", "3"), (" 4", "1"), ("1_0", "1"), ("\u0663", "1"), ("9" * 20, "1"), ("2.0", "1"), ("", "1")],
)
def test_processes_are_counted_where_gos_atoi_reads_a_number(nproc: str, world: str) -> None:
    master = "Master: {replicas: 1, template: {spec: {containers: [{name: pytorch, image: i}]}}}"
    assert operators(f"{{nprocPerNode: {json.dumps(nproc)}, pytorchReplicaSpecs: {{{master}}}}}")["WORLD_SIZE"] == world


def test_the_pod_that_leads_has_the_operators_label() -> None:
    def roles(job: Job) -> list[str]:
        return [dict(replica.container.env)["ROLE"] for replica in job.replicas]

    env = "env: [{name: ROLE, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['training.kubeflow.org/job-role']\"}}}]"
    replica = f"replicas: %d, template: {{spec: {{containers: [{{name: pytorch, image: i, {env}}}]}}}}"
    both = f"{{pytorchReplicaSpecs: {{Master: {{{replica % 1}}}, Worker: {{{replica % 1}}}}}}}"
    assert roles(job_of(both)) == ["master", ""]
    assert roles(job_of(f"{{pytorchReplicaSpecs: {{Worker: {{{replica % 2}}}}}}}")) == ["master", ""]


def test_an_elastic_jobs_rendezvous_is_on_this_machine_and_ranks_follow_indices() -> None:
    job = job_of(ELASTIC)
    first, second = (dict(replica_environment(job, replica, port=5000)) for replica in job.replicas)
    assert first["PET_RDZV_ENDPOINT"] == second["PET_RDZV_ENDPOINT"] == "127.0.0.1:5000"
    assert expand(job.replicas[1].container, second)[1] == "--rdzv-endpoint=127.0.0.1:5000"
    assert first["PET_NNODES"] == "1:3"
    assert first["PET_LOCAL_ADDR"] < second["PET_LOCAL_ADDR"]
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} & set(first)


def test_auto_is_one_process_where_replicas_share_a_machine() -> None:
    job = job_of(ELASTIC)
    assert [change.instead_of for change in substitutions(job, job.replicas[0]) if change.name == "PET_NPROC_PER_NODE"] == [
        "auto"
    ]
    assert dict(replica_environment(job, job.replicas[0]))["PET_NPROC_PER_NODE"] == "1"
    assert dict(replica_environment(job, job.replicas[0], substituted=False))["PET_NPROC_PER_NODE"] == "auto"


def test_a_train_jobs_nodes_are_told_what_kubeflow_trainer_tells_them() -> None:
    job = job_from_manifest(
        manifest("""
apiVersion: trainer.kubeflow.org/v1alpha1
kind: TrainJob
metadata: {name: t}
spec: {runtimeRef: {name: torch-distributed}, trainer: {image: i, command: [torchrun, a.py], numNodes: 2, numProcPerNode: 3}}
""")
    )
    assert [replica.pod_name for replica in job.replicas] == ["t-node-0-0", "t-node-0-1"]
    env = dict(replica_environment(job, job.replicas[1], port=5000))
    assert {name: env[name] for name in env if name.startswith("PET_")} == {
        "PET_NNODES": "2",
        "PET_NPROC_PER_NODE": "3",
        "PET_NODE_RANK": "1",
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": "5000",
    }
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "PYTHONUNBUFFERED"} & set(env)


def test_addresses_and_ports_are_mapped_and_what_the_operator_injects_wins() -> None:
    job = job_from_manifest(
        manifest("""
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata: {name: trial-1}
spec:
  pytorchReplicaSpecs:
    Master:
      replicas: 1
      template:
        spec:
          containers:
            - name: pytorch
              image: i
              command: [python, train.py, "--master=$(MASTER_ADDR):$(MASTER_PORT)", "--keep=$$(RANK)", $(NO_SUCH)]
              env: [{name: RANK, value: "9"}, {name: BEFORE, value: "$(MASTER_ADDR)"}, {name: MASTER_PORT, value: "1"}]
"""),
        "pytorch",
        trial="trial-1",
    )
    environ = environment(job, port=4001)
    assert environ["RANK"] == "0"
    assert environ["MASTER_ADDR"] == environ["PET_MASTER_ADDR"] == "127.0.0.1"
    assert environ["MASTER_PORT"] == environ["PET_MASTER_PORT"] == "4001"
    assert environ["BEFORE"] == "$(MASTER_ADDR)", "the operator's entries come after the user's"
    assert environ["KATIB_TRIAL_NAME"] == "trial-1"
    assert environ["WORLD_SIZE"] == "1"
    assert environ["PYTHONUNBUFFERED"] == "1"
    argv = expand(job.replicas[0].container, environ)
    assert argv == ("python", "train.py", "--master=127.0.0.1:4001", "--keep=$(RANK)", "$(NO_SUCH)")
    assert job.namespace == "default"
    assert job.replicas[0].pod_name == "trial-1-master-0"


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)", "1"),
        ("$(A)$(B)", "12"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$$$$(A)", "$$(A)"),
        ("$(C)", "$(C)"),
        ("$(A", "$(A"),
        ("$A ${A} $", "$A ${A} $"),
        ("$()", "$()"),
        ("a$(A)b$(", "a1b$("),
    ],
)
def test_expansion_is_kubernetes(text: str, expanded: str) -> None:
    assert expand_text(text, {"A": "1", "B": "2"}) == expanded


@given(st.text("$()AB "))
def test_values_from_elsewhere_are_never_expanded(value: str) -> None:
    config_map = {"metadata": {"name": "c"}, "data": {"k": value}}
    job = batch(
        "env: [{name: A, value: x}, {name: V, valueFrom: {configMapKeyRef: {name: c, key: k}}}]", config_maps=(config_map,)
    )
    assert environment(job)["V"] == value


def test_env_in_order_earlier_entries_only_and_the_last_of_a_name() -> None:
    job = batch('env: [{name: B, value: "$(A)"}, {name: A, value: "1"}, {name: C, value: "$(A)"}, {name: A, value: "2"}]')
    assert environment(job) == {"B": "$(A)", "A": "2", "C": "1"}


def test_env_from_the_pod_and_from_config_maps() -> None:
    config_map = {"metadata": {"name": "c", "namespace": "lab"}, "data": {"K": "v", "L": "w"}}
    job = batch(
        """envFrom: [{prefix: P_, configMapRef: {name: c}}, {configMapRef: {name: none, optional: true}}],
        env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}},
              {name: NS, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}},
              {name: TEAM, valueFrom: {fieldRef: {fieldPath: "metadata.labels['team']"}}},
              {name: ONE, valueFrom: {configMapKeyRef: {name: c, key: L}}},
              {name: GONE, valueFrom: {secretKeyRef: {name: s, key: k, optional: true}}}]""",
        config_maps=(config_map,),
        pass_env=(),
    )
    assert environment(job) == {"P_K": "v", "P_L": "w", "POD": "trial-1-0", "NS": "lab", "TEAM": "vision", "ONE": "w"}


def test_secrets_come_from_the_calling_shell_alone() -> None:
    fields = 'env: [{name: TOKEN, valueFrom: {secretKeyRef: {name: s, key: k}}}, {name: URL, value: "https://$(TOKEN)@host"}]'
    with pytest.raises(RenderRefused, match="TOKEN"):
        batch(fields, pass_env=())
    job = batch(fields, pass_env=("TOKEN",))
    assert job.replicas[0].container.secrets == ("TOKEN",)
    found = environment(job, passed={"TOKEN": "t", "OTHER": "o"})
    assert {name: revealed(value) for name, value in found.items()} == {"TOKEN": "t", "URL": "https://t@host"}
    assert {name: f"{value}" for name, value in found.items()} == {"TOKEN": "(secret)", "URL": "https://(secret)@host"}
    assert environment(job) == {"URL": "https://$(TOKEN)@host"}


def test_a_config_map_of_another_namespace_is_not_taken() -> None:
    config_map = {"metadata": {"name": "c", "namespace": "other"}, "data": {"K": "v"}}
    with pytest.raises(RenderRefused, match="ConfigMap c in namespace lab"):
        batch("envFrom: [{configMapRef: {name: c}}]", config_maps=(config_map,))


def test_what_a_batch_job_asks_for() -> None:
    job = batch(
        'command: [python], args: [train.py], workingDir: /opt, resources: {limits: {cpu: 1500m, memory: 2Gi, nvidia.com/gpu: "2"}}',
        spec="backoffLimit: 3, activeDeadlineSeconds: 100",
        pod="activeDeadlineSeconds: 60, terminationGracePeriodSeconds: 5",
    )
    container = job.replicas[0].container
    assert container == Container("trainer", "i:1", ("python",), ("train.py",), (), (), "/opt", 1.5, 2, 2 * 2**30)
    assert (job.kind, job.name, job.namespace, job.replicas[0].pod_name) == ("Job", "trial-1", "lab", "trial-1-0")
    assert (job.backoff_limit, job.deadline_s, job.grace_s) == (3, 60.0, 5.0)


def test_what_a_file_does_not_say() -> None:
    job = batch()
    assert (job.backoff_limit, job.deadline_s, job.grace_s) == (None, None, 30.0)
    assert job.replicas[0].container == Container("trainer", "i:1")


def pytorch(policy: str, run_policy: str) -> Job:
    return job_from_manifest(
        manifest(f"""
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata: {{name: t}}
spec: {{runPolicy: {{{run_policy}}}, pytorchReplicaSpecs: {{Master: {{replicas: 1, {policy}
    template: {{spec: {{activeDeadlineSeconds: 50, containers: [{{name: pytorch, image: i}}]}}}}}}}}}}
"""),
        "pytorch",
    )


def test_the_smallest_deadline_counts() -> None:
    assert pytorch("", "activeDeadlineSeconds: 40").deadline_s == 40
    assert pytorch("", "activeDeadlineSeconds: 400").deadline_s == 50


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("500m", "0.5"),
        ("2", "2"),
        (2, "2"),
        (0.5, "0.5"),
        ("1e3", "1000"),
        ("4Gi", str(4 * 2**30)),
        ("1k", "1000"),
        ("+1.5Ki", "1536"),
        (".5", "0.5"),
    ],
)
def test_quantities(text: Any, number: str) -> None:
    assert quantity(text) == quantity(number)


@pytest.mark.parametrize("text", ["", "x", "1 Gi", "1GiB", "--1", "1e", True, None, "nan", "１"])
def test_what_is_no_quantity(text: Any) -> None:
    with pytest.raises(ValueError, match="quantity"):
        quantity(text)


def test_a_job_that_substitution_broke_is_refused_in_words() -> None:
    broken = manifest(
        "{apiVersion: batch/v1, kind: Job, metadata: {name: t}, spec: {template: {spec: {containers: [{name: other}]}}}}"
    )
    with pytest.raises(RenderRefused, match="trainer"):
        job_from_manifest(broken, "trainer")


def test_hidden_text_is_shown_and_written_nowhere() -> None:
    hidden = Hidden("s3cr3t")
    assert f"{hidden} {hidden!r} {[hidden]} {hidden!s:>10}" == "(secret) '(secret)' ['(secret)']   (secret)"
    for write in (json.dumps, pickle.dumps, "".join, Path, os.fsencode):
        with pytest.raises(TypeError):
            write([hidden] if write == "".join else hidden)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "value", "told"),
    [
        ("$(A)/$(B)", "1/s3cr3t", "1/(secret)"),
        ("$$(B) $(A)", "$(B) 1", "$(B) 1"),
        ("$(NONE)", "$(NONE)", "$(NONE)"),
        (Hidden("a$$b$(A)"), "a$b1", "(secret)"),
    ],
)
def test_what_hidden_text_is_part_of_is_hidden(text: str | Hidden, value: str, told: str) -> None:
    found = expand_text(text, {"A": "1", "B": Hidden("s3cr3t")})
    assert (revealed(found), str(found)) == (value, told)
    assert isinstance(found, Hidden) == (value != told)
