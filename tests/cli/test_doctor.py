"""`katuna doctor` on this machine; tests/cluster/test_real.py asks a real cluster."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from katuna.cluster.checkup import RIGHTS
from searches import katuna

ROLE = Path(__file__).parents[2] / "deploy/role.yaml"


def test_what_this_machine_has_is_said_in_a_line_each(tmp_path: Path) -> None:
    done = katuna("doctor", env={"KATUNA_HOME": str(tmp_path / "runs")})
    assert done.returncode == 0, done.stderr
    rows = {line[4:28].strip(): line[:4].strip() for line in done.stdout.splitlines()}
    assert {"Python", "optuna", "torch", "CPUs", "GPUs", "files", "warm starts", "runs"} <= set(rows)
    assert rows["optuna"] == "ok"
    assert not (tmp_path / "runs").exists(), "nothing is made"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_what_is_missing_is_an_exit_code(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0o500)
    done = katuna("doctor", env={"KATUNA_HOME": str(tmp_path / "shut/runs")})
    assert done.returncode == 1
    assert "NO  runs" in done.stdout


def test_no_cluster_is_one_line(tmp_path: Path) -> None:
    done = katuna("doctor", "--on", "cluster", env={"KUBECONFIG": str(tmp_path / "none"), "HOME": str(tmp_path)})
    assert done.returncode == 2
    assert done.stderr.startswith("error: no cluster is known: ")
    assert "Traceback" not in done.stderr


def test_the_role_gives_the_rights_that_are_checked() -> None:
    given = {
        (group, resource): set(rule["verbs"])
        for rule in yaml.safe_load(ROLE.read_text())["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert given == {(group, resource): set(verbs) for group, resource, verbs in RIGHTS}
