"""What the real Training Operator makes of jobs, beside what was recorded of it and what `katuna train --dry-run` says."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from kube import KubeError
from laboratory import Lab

from recordings import OPERATOR_TRUTH

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

REPOSITORY = Path(__file__).parents[2]
ENTRIES: list[dict[str, Any]] = json.loads((OPERATOR_TRUTH / "truth.json").read_text())
JOBS = sorted(path for path in (REPOSITORY / "training_jobs").glob("*.yaml") if "kind: PyTorchJob" in path.read_text())


def created(lab: Lab, document: dict[str, Any]) -> str:
    """The name of the job. Raises KubeError where it is refused."""
    made = {**document, "metadata": {**document["metadata"], "namespace": lab.namespace}}
    return str(lab.plane.kube.create(made)["metadata"]["name"])


def pods_of(lab: Lab, job: str, count: int) -> dict[str, dict[str, Any]]:
    """Containers by pod and name, as the operator has made them: `env` as pairs, `command` and `args`."""
    path = f"/api/v1/namespaces/{lab.namespace}/pods?labelSelector=training.kubeflow.org/job-name={job}"
    give_up = time.monotonic() + 60
    while len(items := lab.plane.kube.get(path)["items"]) < count:
        assert time.monotonic() < give_up, [each["metadata"]["name"] for each in items]
        time.sleep(0.05)
    return {
        each["metadata"]["name"]: {
            container["name"]: {
                "env": [[env["name"], env.get("value", "valueFrom")] for env in container.get("env") or []],
                "command": container.get("command"),
                "args": container.get("args"),
                "ports": [[port["name"], port["containerPort"]] for port in container.get("ports") or []],
            }
            for container in each["spec"]["containers"]
        }
        for each in items
    }


def removed(lab: Lab, job: str) -> None:
    lab.plane.kube.call("DELETE", f"/apis/kubeflow.org/v1/namespaces/{lab.namespace}/pytorchjobs/{job}")


def test_the_recordings_are_what_the_operator_does_today(lab: Lab) -> None:
    wrong = []
    for entry in ENTRIES:
        document = yaml.safe_load((OPERATOR_TRUTH / entry["file"]).read_text())
        try:
            job = created(lab, document)
        except KubeError as error:
            if entry["accepted"]:
                wrong.append(f"{entry['file']}: refused: {error}")
            continue
        if not entry["accepted"]:
            wrong.append(f"{entry['file']}: accepted")
        elif entry["pods"]:
            found = {pod.replace(job, "JOB", 1): each for pod, each in pods_of(lab, job, len(entry["pods"])).items()}
            text = json.dumps(found).replace(f"{job}-master-0", "JOB-master-0").replace(f"{job}-worker-0", "JOB-worker-0")
            if json.loads(text) != entry["pods"]:
                wrong.append(f"{entry['file']}: {text}\nrecorded: {json.dumps(entry['pods'])}")
        removed(lab, job)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", JOBS, ids=[path.stem for path in JOBS])
def test_a_dry_run_says_what_the_operator_makes_of_the_projects_own_jobs(lab: Lab, path: Path) -> None:
    done = lab.katuna("train", path, "--dry-run", "-o", "json")
    shown = {pod["pod"]: {each["name"]: each for each in pod["containers"]} for pod in json.loads(done.stdout)["replicas"]}
    job = created(lab, yaml.safe_load(path.read_text()))
    found = pods_of(lab, job, len(shown))
    assert set(found) == set(shown)
    for pod, containers in found.items():
        for name, container in containers.items():
            assert [each for each, _ in container["env"]] == list(shown[pod][name]["env"])
            assert [*(container["command"] or []), *(container["args"] or [])] == shown[pod][name]["argv"]
    removed(lab, job)
