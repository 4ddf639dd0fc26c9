"""Searches and jobs on a real control plane with the real Training Operator, as a user who may do what deploy/role.yaml says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from laboratory import ROLE, Lab

from searches import experiment_yaml, journal_events, spawn
from toy_jobs import pytorchjob

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

REPOSITORY = Path(__file__).parents[2]

TRAIN = """
import sys
from lab.model import accuracy
for step in range(1, 5):
    print(f"step={step} accuracy={accuracy(float(sys.argv[1].partition('=')[2]), step)}", flush=True)
"""
MODEL = "def accuracy(lr, step):\n    return round((1 - abs(lr - 0.3)) * step / 4, 6)\n"


def a_job(name: str, program: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "lab/image", "command": ["python", "-c", program]}
    pod = {"restartPolicy": "Never", "containers": [container], **spec.pop("pod", {})}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": {"spec": pod}, **spec},
    }


def write(lab: Lab, document: dict[str, Any]) -> str:
    (lab.folder / "file.yaml").write_text(yaml.safe_dump(document))
    return "file.yaml"


def an_experiment(lab: Lab, **changes: Any) -> dict[str, Any]:
    """A search over a script of three modules in the folder."""
    (lab.folder / "lab").mkdir()
    (lab.folder / "lab/__init__.py").touch()
    (lab.folder / "lab/model.py").write_text(MODEL)
    (lab.folder / "train.py").write_text(TRAIN)
    found: dict[str, Any] = yaml.safe_load(experiment_yaml(**changes))
    job = found["spec"]["trialTemplate"]["trialSpec"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    container["command"] = ["python", "train.py", "--lr=${trialParameters.lr}"]
    return found


def trials(run: Path) -> list[tuple[str, dict[str, str], list[str], int]]:
    """Name, parameters, values and exit code of each."""
    events = journal_events(run)
    return [
        (
            asked["name"],
            asked["assignments"],
            [
                report[1]
                for event in events
                if event["event"] == "Reported" and event["number"] == asked["number"]
                for report in event["reports"]
            ],
            next(event["code"] for event in events if event["event"] == "Exited" and event["number"] == asked["number"]),
        )
        for asked in events
        if asked["event"] == "Asked"
    ]


def test_a_ddp_job_trains_in_real_pods(lab: Lab) -> None:
    for name in ("trainers", "training_jobs"):
        shutil.copytree(REPOSITORY / name, lab.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    done = lab.katuna("train", "training_jobs/digits-ddp.yaml", *lab.there, timeout=250)
    assert done.returncode == 0, (done.stdout, done.stderr)
    shown = lab.katuna("show", "digits-ddp").stdout
    rows = {line.split()[0]: line.split()[1:3] for line in shown.splitlines() if "-0 " in line}
    assert rows == {"master-0": ["Completed", "0"], "worker-0": ["Completed", "0"]}
    assert f"Cluster    context user, namespace {lab.namespace}, label katuna/run=digits-ddp-" in shown
    assert "epoch=8" in lab.katuna("logs", "digits-ddp/master-0").stdout
    assert "digits-ddp" in lab.objects(), "the job of a training stays"
    assert lab.katuna("rm", "-y", "digits-ddp").returncode == 0
    give_up = time.monotonic() + 60
    while lab.objects():
        assert time.monotonic() < give_up, lab.objects()
        time.sleep(0.2)


def test_a_search_gives_the_same_trials_as_on_this_machine(lab: Lab) -> None:
    file = write(lab, an_experiment(lab, maxTrialCount=6, parallelTrialCount=1))
    there = lab.katuna("tune", file, "--seed", "7", *lab.there)
    assert there.returncode == 0, (there.stdout, there.stderr)
    here = lab.katuna("tune", file, "--seed", "7")
    assert here.returncode == 0, (here.stdout, here.stderr)
    runs = lab.folder / "runs"
    assert trials(runs / "toy") == trials(runs / "toy-2")
    assert [event["process"]["start"] for event in journal_events(runs / "toy") if event["event"] == "Started"] == ["cluster"] * 6
    assert not [name for name in lab.objects() if name.startswith("katuna-code")]


def test_an_edited_line_is_another_version_of_the_code(lab: Lab) -> None:
    file = write(lab, an_experiment(lab, maxTrialCount=1, parallelTrialCount=1))
    assert lab.katuna("tune", file, "--seed", "7", *lab.there).returncode == 0
    (lab.folder / "lab/model.py").write_text(MODEL.replace("0.3", "0.9"))
    assert lab.katuna("tune", file, "--seed", "7", *lab.there).returncode == 0
    first, second = (json.loads(lab.katuna("best", name, "-o", "json").stdout) for name in ("toy", "toy-2"))
    assert first != second


def test_code_of_more_than_one_config_map_arrives_whole(lab: Lab) -> None:
    for number in range(12):
        (lab.folder / f"table{number}.txt").write_text(os.urandom(100_000).hex())
    (lab.folder / "count.py").write_text(
        "import glob\nprint('bytes', sum(len(open(name).read()) for name in glob.glob('table*.txt')))\n"
    )
    job = a_job("counts", "")
    job["spec"]["template"]["spec"]["containers"][0]["command"] = ["python", "count.py"]
    done = lab.katuna("train", write(lab, job), *lab.there)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert f"bytes {12 * 200_000}" in lab.katuna("logs", "counts").stdout
    assert len([name for name in lab.objects() if name.startswith("katuna-code")]) == 2


def test_a_driver_that_is_killed_goes_on_with_what_runs(lab: Lab) -> None:
    document = an_experiment(lab, maxTrialCount=4, parallelTrialCount=2)
    (lab.folder / "train.py").write_text("import time\n" + TRAIN + "    time.sleep(0.5)\n")
    file = write(lab, document)
    process = spawn("tune", file, "--seed", "7", *lab.there, cwd=lab.folder, env=lab.env)
    assert process.stdout is not None
    while "trial 1 started" not in process.stdout.readline():
        assert process.poll() is None, process.communicate()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = lab.katuna("resume", "toy")
    assert done.returncode == 0, (done.stdout, done.stderr)
    run = lab.folder / "runs/toy"
    events = journal_events(run)
    assert sorted(event["number"] for event in events if event["event"] == "Exited") == [0, 1, 2, 3]
    assert [event["restarted"] for event in events if event["event"] == "Resumed"] == [[]], "nothing had to begin again"
    audit = [json.loads(line) for line in (lab.plane.folder / "log/audit").read_text().splitlines()]
    created = [
        each["objectRef"]["name"]
        for each in audit
        if each["verb"] == "create"
        and each["objectRef"]["resource"] == "jobs"
        and each["objectRef"].get("namespace") == lab.namespace
        and each["responseStatus"]["code"] == 201
        and "dryRun" not in each["requestURI"]
    ]
    assert len(created) == 4


def test_a_trial_is_stopped_early_and_its_job_is_gone(lab: Lab) -> None:
    stopping = {
        "algorithmName": "medianstop",
        "algorithmSettings": [{"name": "min_trials_required", "value": "2"}, {"name": "start_step", "value": "2"}],
    }
    document = an_experiment(lab, maxTrialCount=8, parallelTrialCount=2, earlyStopping=stopping)
    (lab.folder / "train.py").write_text("import time\n" + TRAIN + "    time.sleep(0.7)\n")
    done = lab.katuna("tune", write(lab, document), "--seed", "5", *lab.there, timeout=200)
    assert done.returncode == 0, (done.stdout, done.stderr)
    events = journal_events(lab.folder / "runs/toy")
    stopped = [event["number"] for event in events if event["event"] == "Stopping"]
    assert stopped
    ends = {event["number"]: event["reason"] for event in events if event["event"] == "Exited"}
    assert {ends[number] for number in stopped} == {"Stopped"}
    assert len(ends) == 8
    assert lab.objects() == []


def test_logs_are_whole_through_restarts_and_an_outage(lab: Lab) -> None:
    program = """
import os, sys, time
path = "/state/attempt"
attempt = int(open(path).read()) if os.path.exists(path) else 0
open(path, "w").write(str(attempt + 1))
for number in range(300):
    print(f"line {attempt}-{number}", flush=True)
    time.sleep(0.02)
sys.exit(3 if attempt == 0 else 0)
"""
    pod = {"restartPolicy": "OnFailure", "volumes": [{"name": "state", "emptyDir": {}}]}
    job = a_job("lines", program, pod=pod, backoffLimit=3)
    job["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = [{"name": "state", "mountPath": "/state"}]
    process = spawn("train", write(lab, job), *lab.there, cwd=lab.folder, env=lab.env)
    log = lab.folder / "runs/lines/log"
    while not (log.exists() and "line 0-50\n" in log.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    lab.plane.outage(3.0)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, (out, err)
    lines = [line for line in log.read_text().splitlines() if line.startswith("line ")]
    assert lines == [f"line {attempt}-{number}" for attempt in (0, 1) for number in range(300)]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("exit code", "exited with code 3; its log ends: no data"),
        ("no such command", "exit code 127"),
    ],
)
def test_a_failure_is_told_with_its_cause(lab: Lab, what: str, said: str) -> None:
    job = a_job("fails", "print('no data'); raise SystemExit(3)")
    if what == "no such command":
        job["spec"]["template"]["spec"]["containers"][0]["command"] = ["no-such-command"]
    done = lab.katuna("train", write(lab, job), *lab.there)
    assert done.returncode == 1
    assert said in done.stdout + done.stderr + json.dumps(journal_events(lab.folder / "runs/fails"))


def waits_and_says(lab: Lab, job: dict[str, Any], said: str) -> None:
    """Within seconds a person knows why nothing happens."""
    process = spawn("train", write(lab, job), *lab.there, cwd=lab.folder, env=lab.env)
    assert process.stdout is not None
    lines = []
    while not lines or said not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], lines
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=100)
    assert process.returncode == 130


def test_what_the_namespace_has_reaches_the_pods(lab: Lab) -> None:
    """A Secret that this machine does not have refuses a job here, and none there."""
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "namespace": lab.namespace}}
    lab.plane.kube.apply({**secret, "data": {"token": "aHVzaA=="}})
    job = a_job("keyed", "import os; print('length', len(os.environ['TOKEN']))")
    source = {"secretKeyRef": {"name": "keys", "key": "token"}}
    job["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "TOKEN", "valueFrom": source}]
    file = write(lab, job)
    assert lab.katuna("train", file).returncode == 2
    done = lab.katuna("train", file, *lab.there)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "length 4" in lab.katuna("logs", "keyed").stdout
    assert "hush" not in done.stdout + done.stderr


def test_no_node_fits(lab: Lab) -> None:
    job = a_job("large", "print(1)")
    job["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": 8}}
    waits_and_says(lab, job, "Insufficient nvidia.com/gpu")


def test_pods_are_refused_by_pod_security(lab: Lab) -> None:
    lab.plane.namespace(lab.namespace)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    lab.plane.kube.patch(f"/api/v1/namespaces/{lab.namespace}", {"metadata": {"labels": labels}})
    waits_and_says(lab, a_job("soft", "print(1)"), 'violates PodSecurity "restricted')


def test_pods_are_refused_by_a_quota(lab: Lab) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": lab.namespace}}
    lab.plane.kube.apply({**quota, "spec": {"hard": {"pods": "0"}}})
    waits_and_says(lab, a_job("many", "print(1)"), "exceeded quota: q")


def test_a_hardened_job_passes_where_pods_are_restricted(lab: Lab) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    lab.plane.kube.patch(f"/api/v1/namespaces/{lab.namespace}", {"metadata": {"labels": labels}})
    (lab.folder / "says.py").write_text("print('accuracy=0.5')\n")
    job = a_job("hard", "")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    container["command"] = ["python", "says.py"]
    container["securityContext"] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "runAsUser": 65534,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    done = lab.katuna("train", write(lab, job), *lab.there)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "accuracy=0.5\n" in lab.katuna("logs", "hard").stdout


def test_what_cannot_run_is_refused_before_anything_is_made(lab: Lab) -> None:
    wrong = pytorchjob("print(1)")
    wrong["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]["name"] = "main"
    train_job = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": "tj"},
        "spec": {"runtimeRef": {"name": "torch-distributed"}},
    }
    for document, said in (
        (train_job, "the cluster knows no TrainJob (install Kubeflow Trainer v2 there"),
        (a_job("UPPER", "print(1)"), "UPPER"),
    ):
        done = lab.katuna("train", write(lab, document), *lab.there)
        assert done.returncode == 2, done.stdout
        assert said in done.stderr
    stranger = ("--on", "cluster", "--context", "user", "--namespace", "kubeflow")
    done = lab.katuna("train", write(lab, a_job("mine", "print(1)")), *stranger)
    assert done.returncode == 2
    assert 'User "user" cannot create resource "jobs"' in done.stderr
    assert lab.objects() == []
    assert not (lab.folder / "runs").exists()


def test_the_doctor_says_what_a_user_has_and_lacks(lab: Lab) -> None:
    where = ("--context", "user", "--namespace", lab.namespace)
    done = lab.katuna("doctor", "--on", "cluster", *where)
    assert done.returncode == 0, (done.stdout, done.stderr)
    lines = {line[4:28].strip(): line for line in done.stdout.splitlines()}
    assert lines["API server"].endswith(" v1.35.4")
    assert lines["rights"].startswith("ok ")
    assert lines["PyTorchJob"].startswith("ok ")
    assert lines["TrainJob"].startswith("- ")
    done = lab.katuna("doctor", "--on", "cluster", "--context", "user", "--namespace", "kubeflow")
    assert done.returncode == 1
    assert "NO  rights on pods           not get, list, watch, delete (apply deploy/role.yaml" in done.stdout
    done = lab.katuna("doctor", "--on", "cluster", "--context", "admin", "--namespace", lab.namespace)
    assert "2 nvidia.com/gpu on 1 node" in done.stdout


def started(lab: Lab, job: dict[str, Any]) -> Any:
    """`katuna train` of a job whose container runs."""
    process = spawn("train", write(lab, job), *lab.there, cwd=lab.folder, env=lab.env)
    assert process.stdout is not None
    while "started" not in process.stdout.readline():
        assert process.poll() is None, process.communicate()
    return process


def test_nothing_is_asked_that_the_role_does_not_give(lab: Lab) -> None:
    """What katuna does as a user asks for each verb that deploy/role.yaml gives, and for no other."""
    file = write(lab, an_experiment(lab, maxTrialCount=1, parallelTrialCount=1))
    assert lab.katuna("tune", file, *lab.there).returncode == 0
    assert lab.katuna("rm", "-y", "toy").returncode == 0
    # A job that does not end when it is asked to is ended at once by a second Ctrl-C.
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    process = started(lab, a_job("deaf", deaf))
    while "| 1" not in process.stdout.readline():
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    while "Ctrl-C again" not in process.stdout.readline():
        assert process.poll() is None, process.communicate()
    pods = f"/api/v1/namespaces/{lab.namespace}/pods?labelSelector=batch.kubernetes.io/job-name=deaf"
    give_up = time.monotonic() + 60
    while not any(each["metadata"].get("deletionTimestamp") for each in lab.plane.kube.get(pods)["items"]):
        assert time.monotonic() < give_up, "the pod was not asked to end"
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=100)
    for job in (
        a_job("short", "import time; time.sleep(4)", pod={"restartPolicy": "OnFailure"}),
        pytorchjob("import time; time.sleep(4)"),
    ):
        process = started(lab, job)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert lab.katuna("resume").returncode == 0
    assert lab.katuna("rm", "-y", "deaf", "short", "toy").returncode == 0
    given = {
        (group, resource, verb)
        for rule in ROLE["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    asked = {each for each in lab.plane.asked(lab.namespace) if each[1]}
    assert asked - given == set()
    assert {each for each in given - asked if each[1] != "trainjobs"} == set(), "the role gives more than is used"
