"""SIGKILL of katuna and its whole process group, at any moment: nothing lost, nothing doubled, nothing left running."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import uuid
from pathlib import Path

import pytest

from searches import await_none, journal_events, katuna, spawn, write_experiment

# A trial that notices when another process of the same trial is at work beside it, and leaves a child behind.
LONELY = """
import fcntl, os, sys, time
folder = os.environ["KATUNA_TRIAL_DIR"]
lock = open(folder + "/alone", "w")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    open(folder + "/DOUBLED", "w").close()
lr = float(sys.argv[1])
if os.fork() == 0:
    time.sleep(60)
for step in range(4):
    time.sleep(0.015)
    print(f"step={step} accuracy={(1 - abs(lr - 0.3)) * (step + 1) / 4:.6f}", flush=True)
"""


def trials_of(run: Path) -> list[tuple[object, ...]]:
    """What each trial was and came to, without times, pids and attempts."""
    asked = {
        event["number"]: (event["name"], tuple(event["assignments"].items()))
        for event in journal_events(run)
        if event["event"] == "Asked"
    }
    reports: dict[int, list[object]] = {}
    ended: dict[int, list[object]] = {}
    for event in journal_events(run):
        match event["event"]:
            case "Started":
                reports[event["number"]] = []
            case "Reported":
                reports[event["number"]] += map(tuple, event["reports"])
            case "Exited":
                ended.setdefault(event["number"], []).append((event["code"], event["reason"]))
    assert all(len(ends) == 1 for ends in ended.values()), "a trial ended twice"
    return [(number, *asked[number], tuple(reports[number]), *ended[number]) for number in sorted(asked)]


def kill_until_done(folder: Path, mark: str, chance: random.Random, kills: int) -> Path:
    """Runs a search to its end, killing katuna's process group `kills` times at seeded moments: four in five while trials run,
    the fifth while katuna is still on its way there. Returns the run folder."""
    run = folder / "runs" / "toy"
    environment = {"KATUNA_HOME": str(folder / "runs")}
    for kill in range(kills):
        arguments = ("resume", str(run)) if run.exists() else ("tune", "experiment.yaml")
        process = spawn(*arguments, cwd=folder, env=environment)
        assert process.stdout is not None
        if kill % 5:
            while "resumed:" not in (line := process.stdout.readline()) and "started" not in line:
                assert line, process.communicate()
            time.sleep(chance.uniform(0, 0.25))
        else:
            time.sleep(chance.uniform(0, 0.8))
        assert process.poll() is None, "the search is over before all kills: make it longer"
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert await_none(mark, within_s=2.0) == [], f"still alive 2 s after kill {kill}"
    done = katuna("resume", run, cwd=folder, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("parallel", "kills", "trials"), [(1, 50, 130), (3, 20, 160)], ids=["sequential", "parallel"])
def test_killed_at_seeded_moments_nothing_is_lost_doubled_or_left_running(
    tmp_path: Path, parallel: int, kills: int, trials: int
) -> None:
    mark = f"mark-{uuid.uuid4()}"
    settings = {
        "env": {"MARK": mark},
        "algorithm": {"algorithmName": "tpe", "algorithmSettings": [{"name": "random_state", "value": "11"}]},
        "parallelTrialCount": parallel,
        "maxTrialCount": trials,
    }
    write_experiment(tmp_path, LONELY, **settings)
    run = kill_until_done(tmp_path, mark, random.Random(20261123 + parallel), kills)
    resumed = [event["restarted"] for event in journal_events(run) if event["event"] == "Resumed"]
    assert sum(bool(restarted) for restarted in resumed) >= kills // 2, "too few kills hit a trial that ran"
    assert not list(run.glob("trials/*/DOUBLED"))
    killed = trials_of(run)
    assert [trial[0] for trial in killed] == list(range(trials))
    assert len({trial[1] for trial in killed}) == len(killed)
    if parallel == 1:
        whole = tmp_path / "whole"
        whole.mkdir()
        write_experiment(whole, LONELY, **settings)
        done = katuna("tune", "experiment.yaml", cwd=whole, env={"KATUNA_HOME": str(whole / "runs")}, timeout=120)
        assert done.returncode == 0, done.stderr
        assert killed == trials_of(whole / "runs" / "toy")


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_two_resumes_at_once_one_goes_on(tmp_path: Path) -> None:
    mark = f"mark-{uuid.uuid4()}"
    write_experiment(tmp_path, LONELY, env={"MARK": mark}, maxTrialCount=12)
    first = spawn("tune", "experiment.yaml", cwd=tmp_path)
    assert first.stdout is not None
    while "trial 1 started" not in first.stdout.readline():
        assert first.poll() is None
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    both = [spawn("resume", "toy") for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes == [0, 2], outputs
    assert any("is at work in another katuna process" in errors for _, errors in outputs)
    assert await_none(mark, within_s=2.0) == []
