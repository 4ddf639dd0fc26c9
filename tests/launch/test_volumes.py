"""Checkpoints from parent to child, and folders that a trial has for itself."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from launch_jobs import a_launcher, a_request, run_one, the_end

from katuna.contracts import TrialRequest
from katuna.launch.volumes import Volumes, copy_folder
from katuna.metrics.collect import Collecting
from katuna.spec.model import Collector
from katuna.trials import Exited, Reported, Started

WHERE = "/var/log/katib/checkpoints/"

TRAINS = """
cd /var/log/katib/checkpoints
before=$(cat steps 2>/dev/null || echo 0)
echo $((before + 1)) > steps
echo accuracy=$((before + 1))
"""


def a_trial(number: int, parent: str = "", script: str = TRAINS, **spec: object) -> TrialRequest:
    return replace(a_request(number, "sh", "-c", script, **spec), parent=parent)


def values(events: list[object]) -> list[str]:
    return [report.value for event in events if isinstance(event, Reported) for report in event.reports]


def test_a_trial_goes_on_from_a_copy_of_its_parents_checkpoints(tmp_path: Path) -> None:
    launcher = a_launcher(tmp_path, checkpoints=WHERE)
    assert values(list(run_one(launcher, a_trial(0)))) == ["1"]
    assert values(list(run_one(launcher, a_trial(1, "t0")))) == ["2"]
    assert values(list(run_one(launcher, a_trial(2, "t0")))) == ["2"]
    assert values(list(run_one(launcher, a_trial(3, "t2")))) == ["3"]
    texts = [(tmp_path / f"t{number}" / "checkpoints" / "steps").read_text() for number in range(4)]
    assert texts == ["1\n", "2\n", "2\n", "3\n"]
    launcher.close()


@pytest.mark.parametrize("parent", ["", "t0"])
def test_a_trial_that_begins_again_begins_as_it_did(tmp_path: Path, parent: str) -> None:
    """After a crash of katuna: another launcher, the same folders."""
    first = a_launcher(tmp_path, checkpoints=WHERE)
    run_one(first, a_trial(0))
    run_one(first, a_trial(1, parent))
    first.close()
    launcher = a_launcher(tmp_path, checkpoints=WHERE)
    assert values(list(run_one(launcher, a_trial(1, parent)))) == ["2" if parent else "1"]
    launcher.close()


def test_another_attempt_goes_on_from_what_the_first_left(tmp_path: Path) -> None:
    launcher = a_launcher(tmp_path, checkpoints=WHERE)
    run_one(launcher, a_trial(0))
    fails_once = TRAINS + f"if [ ! -e {tmp_path}/mark ]; then touch {tmp_path}/mark; exit 3; fi"
    events = run_one(launcher, a_trial(1, "t0", fails_once, backoffLimit=1))
    assert values(list(events)) == ["2", "3"]
    launcher.close()


def test_a_parent_without_checkpoints_is_said(tmp_path: Path) -> None:
    launcher = a_launcher(tmp_path, checkpoints=WHERE)
    end = the_end(run_one(launcher, a_trial(1, "t0")))
    assert (end.code, end.reason) == (None, "StartError")
    assert "the checkpoints of t0" in end.message
    assert f"{tmp_path}/t0/checkpoints" in end.message
    launcher.close()


def test_metrics_and_checkpoints_may_lie_in_one_folder_of_the_container(tmp_path: Path) -> None:
    collector = Collector("File", path="/var/log/katib/metrics.log", format="TEXT")
    launcher = a_launcher(tmp_path, collector, checkpoints=WHERE)
    script = TRAINS.replace("echo accuracy=$((before + 1))", "echo accuracy=$((before + 1)) >> /var/log/katib/metrics.log")
    for number, parent in ((0, ""), (1, "t0")):
        assert values(list(run_one(launcher, a_trial(number, parent, script)))) == [str(number + 1)]
    assert sorted(entry.name for entry in (tmp_path / "t1").iterdir()) == [".pods", "checkpoints", "job.yaml", "log", "metrics"]
    launcher.close()


def test_checkpoints_that_the_trainer_is_not_told_of_are_refused(tmp_path: Path) -> None:
    launcher = a_launcher(tmp_path, checkpoints=WHERE)
    (finding,) = launcher.preflight([a_request(0, "true")])
    assert finding.message.startswith(f"{WHERE}, where the trial's checkpoints are to lie, occurs nowhere")
    assert launcher.preflight([a_request(0, "echo", "--dir=/var/log/katib/checkpoints")]) == []


def test_nothing_is_made_where_nothing_is_asked_for(tmp_path: Path) -> None:
    volumes = Volumes(Collecting(("loss",)))
    volumes.begin(tmp_path, None)
    volumes.begin_attempt(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert volumes.maps(tmp_path) == {}


# Copies


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Checkpoints such as trainers leave, with links that are meant well and others."""
    folder = tmp_path / "parent" / "checkpoints"
    (folder / "step-2" / "deep").mkdir(parents=True)
    (folder / "step-2" / "deep" / "weights").write_bytes(b"w")
    (folder / "latest").symlink_to("step-2")
    (folder / "absolute").symlink_to(folder / "step-2" / "deep" / "weights")
    (folder / "step-2" / "up").symlink_to("../step-2/deep")
    (folder / "gone").symlink_to("no-such-step")
    (folder / "loop").symlink_to(folder)
    (tmp_path / "secret").write_text("s")
    (folder / "outside").symlink_to(tmp_path / "secret")
    (folder / "outside-folder").symlink_to("..")
    os.mkfifo(folder / "pipe")
    return folder


def test_a_copy_leads_nowhere_but_into_itself(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "child"
    copy_folder(source, target)
    found = {str(path.relative_to(target)) for path in target.rglob("*")}
    assert {"latest", "absolute", "step-2/up", "step-2/deep/weights", "gone", "loop"} <= found
    assert not {"outside", "outside-folder", "pipe"} & found
    (target / "absolute").write_bytes(b"changed")
    assert (source / "step-2" / "deep" / "weights").read_bytes() == b"w", "the parent's own stay as they are"
    assert (target / "latest" / "deep" / "weights").read_bytes() == b"changed"
    links = [path for path in target.rglob("*") if path.is_symlink()]
    assert links
    assert all(path.resolve().is_relative_to(target.resolve()) for path in links)


def test_a_copy_where_the_source_is_reached_through_a_link(tmp_path: Path, source: Path) -> None:
    (tmp_path / "alias").symlink_to(source.parent)
    copy_folder(tmp_path / "alias" / "checkpoints", tmp_path / "child")
    assert (tmp_path / "child" / "latest" / "deep" / "weights").read_bytes() == b"w"


def test_links_in_the_place_of_a_trials_folders_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "kept").touch()
    (tmp_path / "t0").mkdir()
    for name in ("metrics", "checkpoints"):
        (tmp_path / "t0" / name).symlink_to(tmp_path / "else")
    collector = Collector("File", path="/var/log/katib/metrics.log", format="TEXT")
    launcher = a_launcher(tmp_path, collector, checkpoints=WHERE)
    events = run_one(launcher, a_trial(0, script=TRAINS + "echo accuracy=5 > /var/log/katib/metrics.log"))
    assert values(list(events)) == ["5"]
    assert [type(event) for event in events] == [Started, Reported, Exited]
    assert [entry.name for entry in (tmp_path / "else").iterdir()] == ["kept"]
    launcher.close()
