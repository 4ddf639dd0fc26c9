"""`katuna lint` and `katuna train --dry-run` beside what the real Training Operator did with 45 PyTorchJobs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from katuna.cli import main
from recordings import OPERATOR_TRUTH

ENTRIES: list[dict[str, Any]] = json.loads((OPERATOR_TRUTH / "truth.json").read_text())
NAMES = [entry["file"] for entry in ENTRIES]
HOSTS = ("JOB-master-0", "JOB-worker-0")
BROKEN = "valueFrom"
"""What the recordings have for a variable that the operator writes wrongly."""

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """A command line, run in this process: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return run


def here(name: str, value: str) -> str:
    """A recorded value with this machine's address, and a port that stands for a free one."""
    host, colon, port = value.rpartition(":")
    if name.endswith("MASTER_PORT"):
        return "23456"
    if name == "PET_RDZV_ENDPOINT" and host in HOSTS:
        return f"127.0.0.1{colon}23456" if port.isdigit() else value
    return "127.0.0.1" if name.endswith("MASTER_ADDR") and value in HOSTS else value


def expanded(word: str, known: dict[str, str]) -> str:
    """A kubelet's expansion."""
    return re.sub(r"\$\$|\$\((\w+)\)", lambda match: "$" if match[1] is None else known.get(match[1], match[0]), word)


def recorded_env(pairs: list[list[str]]) -> dict[str, str]:
    known: dict[str, str] = {}
    for name, value in pairs:
        known[name] = expanded(here(name, value), known)
    return known


def shown_pods(printed: str, job: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Containers by pod and name, after a look at the form: these keys and no others."""
    found = json.loads(printed)
    assert list(found) == ["replicas"]
    pods = {}
    for replica in found["replicas"]:
        assert list(replica) == ["pod", "containers"]
        for container in replica["containers"]:
            assert list(container) == ["name", "env", "argv"]
        pods["JOB" + replica["pod"].removeprefix(job)] = {each["name"]: each for each in replica["containers"]}
    return pods


@pytest.mark.parametrize("entry", ENTRIES, ids=NAMES)
def test_a_dry_run_shows_the_operators_pods_or_refuses_as_it_did(entry: dict[str, Any], say: Say) -> None:
    path = OPERATOR_TRUTH / entry["file"]
    code, printed, told = say("train", str(path), "--dry-run", "-o", "json")
    if not entry["accepted"]:
        assert (code, printed) == (2, "")
        assert f"{path}:" in told
        assert "error" in told
        return
    if not entry["pods"]:
        assert told, "that the operator does nothing with it is said"
        return
    # What this machine lacks, as the job's script, is refused once the pods are shown: so would be the run.
    assert code == 0 or (code == 2 and ("error: " in told or "in the way" in told)), told
    job = re.search(r"^  name: (.+)$", path.read_text(), re.MULTILINE)
    assert job is not None
    pods = shown_pods(printed, job[1])
    assert {pod: set(each) for pod, each in pods.items()} == {pod: set(each) for pod, each in entry["pods"].items()}
    for pod, containers in entry["pods"].items():
        for name, recorded in containers.items():
            mine, wanted = pods[pod][name], recorded_env(recorded["env"])
            assert list(mine["env"]) == list(wanted)
            broken = [each for each in wanted if wanted[each] == BROKEN]
            assert {**mine["env"], **dict.fromkeys(broken, BROKEN)} == wanted
            words = [*(recorded["command"] or []), *(recorded["args"] or [])]
            assert mine["argv"] == [expanded(word, wanted) for word in words]


@pytest.mark.parametrize("entry", ENTRIES, ids=NAMES)
def test_lint_refuses_what_the_operator_refused_and_warns_of_what_it_accepted_in_vain(entry: dict[str, Any], say: Say) -> None:
    code, printed, _ = say("lint", str(OPERATOR_TRUTH / entry["file"]), "--on", "cluster", "-o", "json")
    findings = json.loads(printed)
    assert code == int(any(finding["level"] == "error" for finding in findings))
    if entry["accepted"]:
        assert code == 0, findings
        assert findings or entry["pods"], "accepted, and then nothing runs"
    else:
        path = re.search(r"(?:request|invalid): ([\w.\[\]]+): ", entry["message"])
        assert path is not None
        assert path[1] in [finding["path"] for finding in findings if finding["level"] == "error"]


def test_all_recordings_are_there() -> None:
    assert len(ENTRIES) == 45
    assert sum(entry["accepted"] for entry in ENTRIES) > 30
