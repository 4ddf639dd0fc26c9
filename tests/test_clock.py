"""Elapsed time, whatever is done to the machine's clock."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from katuna.clock import SystemClock, on_clock
from katuna.runs import conduct
from katuna.runs.run import Run
from searches import write_experiment


@pytest.mark.parametrize("jump_s", [7200.0, -7200.0])
def test_setting_the_clock_moves_neither_time(monkeypatch: pytest.MonkeyPatch, jump_s: float) -> None:
    clock, wall = SystemClock(), time.time
    before, began = clock.now(), clock.elapsed()
    assert abs(before - wall()) < 1
    monkeypatch.setattr(time, "time", lambda: wall() + jump_s)
    assert 0 <= clock.now() - before < 10
    assert 0 <= clock.elapsed() - began < 10
    assert abs(on_clock(clock.now(), wall() + jump_s - 0.25) - (clock.now() - 0.25)) < 0.2


@pytest.mark.parametrize("jump_s", [7200.0, -7200.0])
def test_a_time_limit_counts_time_that_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float) -> None:
    write_experiment(tmp_path, "import sys\nprint('accuracy=' + sys.argv[1])", maxTrialCount=4, parallelTrialCount=1)
    monkeypatch.chdir(tmp_path)
    wall, began = time.time, time.monotonic()

    def jumps(*_: object) -> None:
        monkeypatch.setattr(time, "time", lambda: wall() + jump_s)

    run = conduct.tune("experiment.yaml", timeout_s=3600, home=tmp_path / "runs", watch=jumps)
    assert [trial.state.value for trial in run.trials] == ["Succeeded"] * 4
    assert run.search.ended is not None
    assert run.search.ended.reason == "ExperimentMaxTrialsReached"
    assert all((trial.duration_s or 0) <= time.monotonic() - began + 10 for trial in run.trials)


def test_a_search_that_its_time_limit_ended_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = "import os, time\nprint('accuracy=0.5', flush=True)\nif not os.path.exists('go'): time.sleep(100)"
    write_experiment(tmp_path, once, maxTrialCount=3, parallelTrialCount=2)
    monkeypatch.chdir(tmp_path)
    ended = conduct.tune("experiment.yaml", timeout_s=1, home=tmp_path / "runs")
    assert (ended.state, [trial.state.value for trial in ended.trials]) == ("Failed", ["Killed"] * 2)
    (tmp_path / "go").touch()
    conduct.resume(ended.name, home=tmp_path / "runs")
    run = Run(ended.folder)
    assert (run.state, [trial.state.value for trial in run.trials]) == ("Succeeded", ["Succeeded"] * 3)
    assert [trial.assignments for trial in run.trials[:2]] == [trial.assignments for trial in ended.trials]
