"""SIGTERM to katuna ends everything in good order: trials may save, what will not go is killed in time, and the search goes on later."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from katuna.search.engine import GRACE_S
from searches import await_line, await_none, journal_events, katuna, processes_with, spawn, write_experiment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

# Two children, one of them in a session of its own, that take no notice of SIGTERM; the trial itself does as FATE says.
FAMILY = """
import os, signal, sys, time
from pathlib import Path
here = Path(os.environ["KATUNA_TRIAL_DIR"])
if (here / "saved").exists():
    print("accuracy=0.75")
    sys.exit()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for own_session in (False, True):
    if os.fork() == 0:
        if own_session:
            os.setsid()
        time.sleep(100)
        os._exit(0)

def save(signum, frame):
    time.sleep(0.5)
    (here / "saved").write_text("all of it")
    sys.exit()

FATE
print("accuracy=0.5", flush=True)
while True:
    time.sleep(1)
"""
SAVES = FAMILY.replace("FATE", "signal.signal(signal.SIGTERM, save)")
IGNORES = FAMILY.replace("FATE", "")


def a_search_at_work(folder: Path, program: str) -> tuple[subprocess.Popen[str], str]:
    """katuna with two running trials of three processes each, and the mark that they carry."""
    mark = f"mark-{uuid.uuid4()}"
    write_experiment(folder, program, env={"MARK": mark}, maxTrialCount=2)
    process = spawn("tune", "experiment.yaml", cwd=folder)
    await_line(folder / "runs" / "toy" / "journal.jsonl", '"Reported"', times=2)
    assert len(processes_with(mark)) == 6
    return process, mark


def ended(process: subprocess.Popen[str], mark: str) -> float:
    """Seconds until katuna had ended by SIGTERM, and nothing was left of its trials then."""
    began = time.monotonic()
    _, errors = process.communicate(timeout=60)
    took = time.monotonic() - began
    assert process.returncode == 143, errors
    assert "go on with `katuna resume toy`" in errors
    assert "Traceback" not in errors
    assert await_none(mark, within_s=0.5) == []
    return took


@pytest.mark.parametrize("whole_group", [False, True], ids=["katuna alone", "whole group"])
def test_a_trial_that_heeds_sigterm_can_save_and_finds_it_when_it_begins_again(tmp_path: Path, whole_group: bool) -> None:
    process, mark = a_search_at_work(tmp_path, SAVES)
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGTERM)
    assert ended(process, mark) < GRACE_S, "it did not have to be killed"
    run = tmp_path / "runs" / "toy"
    assert [path.read_text() for path in run.glob("trials/*/saved")] == ["all of it", "all of it"]
    again = katuna("resume", "toy", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    reports = [event["reports"] for event in journal_events(run) if event["event"] == "Reported"]
    assert reports[2:] == [[["accuracy", "0.75"]]] * 2


def test_what_ignores_sigterm_is_killed_when_the_grace_period_is_over(tmp_path: Path) -> None:
    process, mark = a_search_at_work(tmp_path, IGNORES)
    process.terminate()
    time.sleep(GRACE_S / 2)
    assert len(processes_with(mark)) == 6, "each has its whole grace period"
    assert ended(process, mark) < GRACE_S / 2 + 2.0


def test_a_second_sigterm_hurries(tmp_path: Path) -> None:
    process, mark = a_search_at_work(tmp_path, IGNORES)
    process.terminate()
    time.sleep(0.5)
    process.terminate()
    assert ended(process, mark) < GRACE_S / 2
