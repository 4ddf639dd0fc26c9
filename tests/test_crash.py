"""SIGKILL of katuna and its whole process group, at any moment: nothing lost, nothing doubled, nothing left running, and a
sequential search goes on as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from katuna.search.suggest import SUGGESTERS
from searches import await_none, history, journal_events, katuna, spawn, write_experiment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

# A trial that notices when another process of the same trial is at work beside it, and leaves a child behind. While there is
# a file `hold` in the folder that HOLD names, it stops in the middle and says so by a file `held` in its own.
LONELY = """
import fcntl, os, sys, time
folder = os.environ["KATUNA_TRIAL_DIR"]
lock = open(folder + "/alone", "w")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    open(folder + "/DOUBLED", "w").close()
point = [float(word) for word in sys.argv[1:]]
if os.fork() == 0:
    time.sleep(60)
hold, held = os.path.join(os.environ["HOLD"], "hold"), os.path.join(folder, "held")
for step in range(4):
    time.sleep(0.015)
    while step == 2 and os.path.exists(hold):
        open(held, "w").close()
        time.sleep(0.005)
    print(f"step={step} accuracy={(1 - sum(abs(x - 0.3) for x in point) / len(point)) * (step + 1) / 4:.6f}", flush=True)
"""

ALONE = LONELY.replace("if os.fork() == 0:\n    time.sleep(60)\n", "")
"""The same without the child, for which a trial's end waits a moment."""
assert ALONE != LONELY


def double(name: str, **space: str) -> dict[str, Any]:
    return {"name": name, "parameterType": "double", "feasibleSpace": {"min": "0.01", "max": "0.9", **space}}


PLANE = [double("lr"), double("momentum")]
GRID = [double("lr", step="0.1"), double("momentum", step="0.1")]
EPOCHS = {"name": "epochs", "parameterType": "int", "feasibleSpace": {"min": "1", "max": "27"}}

SPACES: Mapping[str, tuple[Mapping[str, str], list[dict[str, Any]]]] = {
    "random": ({}, PLANE),
    "grid": ({}, GRID),
    "tpe": ({}, PLANE),
    "multivariate-tpe": ({"n_startup_trials": "4"}, PLANE),
    "bayesianoptimization": ({"n_initial_points": "3"}, PLANE),
    "cmaes": ({}, PLANE),
    "sobol": ({}, PLANE),
    "hyperband": ({"r_l": "27", "eta": "3", "resource_name": "epochs"}, [double("lr"), EPOCHS]),
    "pbt": ({"suggestion_trial_dir": "/checkpoints", "n_population": "5", "truncation_threshold": "0.25"}, GRID),
}
"""What each algorithm is tried with: settings and parameters."""


def settings_for(algorithm: str, **changes: Any) -> dict[str, Any]:
    """The changes to the Experiment of `searches` that make it a search by `algorithm`; `medianstop` is random with that rule."""
    stopping = algorithm == "medianstop"
    name = "random" if stopping else algorithm
    settings, parameters = SPACES[name]
    pairs = [{"name": key, "value": value} for key, value in settings.items()]
    return {
        "algorithm": {"algorithmName": name, "algorithmSettings": pairs},
        "parameters": parameters,
        "parallelTrialCount": 1,
        "resumePolicy": "FromVolume" if algorithm == "pbt" else "LongRunning",
        **({"earlyStopping": MEDIAN_STOP} if stopping else {}),
        **changes,
    }


MEDIAN_STOP = {
    "algorithmName": "medianstop",
    "algorithmSettings": [{"name": "min_trials_required", "value": "2"}, {"name": "start_step", "value": "2"}],
}


HELD = (0, 2)
"""Those of each five kills for which a trial waits."""


def holding(folder: Path) -> Path:
    """The folder of the file `hold`. Not the working folder: the search would keep the file as code, and show it to trials for
    ever; not the folder of all runs, of which a trial sees its own run alone."""
    return folder.with_name(f"{folder.name}-holding")


def run_killed(folder: Path, home: Path, mark: str, chance: random.Random, kills: int) -> Path:
    """Runs a search to its end, killing katuna's process group `kills` times, and returns the run folder. Of each five kills
    two are sure to hit a trial that runs (however slow the machine is), two come at a seeded moment once trials run, and the
    fifth while katuna is still on its way there."""
    run = home / "toy"
    environment = {"KATUNA_HOME": str(home)}
    hold = holding(folder) / "hold"
    hold.parent.mkdir(exist_ok=True)
    for kill in range(kills):
        if kill % 5 in HELD:
            hold.touch()
        arguments = ("resume", str(run)) if run.exists() else ("tune", "experiment.yaml", "--seed", "11")
        process = spawn(*arguments, cwd=folder, env=environment)
        assert process.stdout is not None
        if kill % 5 in HELD:
            deadline = time.monotonic() + 60
            while not list(run.glob("trials/*/held")):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline, "no trial has come to its middle"
                time.sleep(0.005)
        elif kill % 5 != 4:
            while "resumed:" not in (line := process.stdout.readline()) and "started" not in line:
                assert line, process.communicate()
            time.sleep(chance.uniform(0, 0.25))
        else:
            time.sleep(chance.uniform(0, 0.8))
        assert process.poll() is None, "the search is over before all kills: make it longer"
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert await_none(mark, within_s=2.0) == [], f"still alive 2 s after kill {kill}"
        hold.unlink(missing_ok=True)
        for held in run.glob("trials/*/held"):
            held.unlink()
    done = katuna("resume", run, cwd=folder, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    return run


def run_whole(folder: Path, home: Path) -> Path:
    done = katuna("tune", "experiment.yaml", "--seed", "11", cwd=folder, env={"KATUNA_HOME": str(home)}, timeout=240)
    assert done.returncode == 0, done.stderr
    return home / "toy"


def check_killed_search(folder: Path, program: str, algorithm: str, kills: int, trials: int, **changes: Any) -> Path:
    """A search of `trials` trials that is killed `kills` times: each trial once, and one at a time as without a kill."""
    mark = f"mark-{uuid.uuid4()}"
    environment = {"MARK": mark, "CHECKPOINTS": "/checkpoints", "HOLD": str(holding(folder))}
    settings = settings_for(algorithm, maxTrialCount=trials, env=environment, **changes)
    write_experiment(folder, program, **settings)
    run = run_killed(folder, folder / "killed", mark, random.Random(f"{algorithm}/{kills}"), kills)
    events = journal_events(run)
    resumed = [event["restarted"] for event in events if event["event"] == "Resumed"]
    held = sum(kill % 5 in HELD for kill in range(kills))
    assert sum(bool(restarted) for restarted in resumed) >= held, "a trial that a kill hit did not begin again"
    assert not list(run.glob("trials/*/DOUBLED"))
    asked = [event for event in events if event["event"] == "Asked"]
    assert [event["number"] for event in asked] == list(range(trials))
    assert len({event["name"] for event in asked}) == trials
    assert sorted(event["number"] for event in events if event["event"] == "Exited") == list(range(trials))
    if settings["parallelTrialCount"] == 1:
        assert history(run) == history(run_whole(folder, folder / "whole"))
    return run


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("parallel", "kills", "trials"), [(1, 5, 10), (4, 3, 24)], ids=["sequential", "parallel"])
def test_killed_at_seeded_moments_nothing_is_lost_doubled_or_left_running(
    tmp_path: Path, parallel: int, kills: int, trials: int
) -> None:
    check_killed_search(tmp_path, LONELY, "tpe", kills, trials, parallelTrialCount=parallel)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("parallel", "trials"), [(1, 260), (4, 520)], ids=["sequential", "parallel"])
def test_killed_200_times_nothing_is_lost_doubled_or_left_running(tmp_path: Path, parallel: int, trials: int) -> None:
    check_killed_search(tmp_path, LONELY, "tpe", 200, trials, parallelTrialCount=parallel)


ALGORITHMS_HERE = (*SUGGESTERS, "medianstop")


def test_each_algorithm_is_among_those_that_are_killed() -> None:
    assert set(SPACES) == set(SUGGESTERS)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("algorithm", ["tpe", "cmaes", "hyperband", "pbt", "medianstop"])
def test_an_algorithm_goes_on_as_if_it_had_not_been_killed(tmp_path: Path, algorithm: str) -> None:
    check_killed_search(tmp_path, ALONE, algorithm, kills=1, trials=5)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("algorithm", ALGORITHMS_HERE)
def test_each_algorithm_goes_on_as_if_it_had_not_been_killed_ten_times(tmp_path: Path, algorithm: str) -> None:
    run = check_killed_search(tmp_path, ALONE, algorithm, kills=10, trials=40)
    if algorithm == "medianstop":
        assert any(event["event"] == "Stopping" for event in journal_events(run))


def test_two_resumes_at_once_one_goes_on_when_the_old_trials_have_gone(tmp_path: Path) -> None:
    mark = f"mark-{uuid.uuid4()}"
    unwilling = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + LONELY
    write_experiment(tmp_path, unwilling.replace("0.015", "0.2"), env={"MARK": mark, "HOLD": str(tmp_path)}, maxTrialCount=4)
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
    assert any("(4 succeeded)" in shown for shown, _ in outputs), outputs
    assert not list((tmp_path / "runs" / "toy").glob("trials/*/DOUBLED"))
    assert await_none(mark, within_s=2.0) == []
