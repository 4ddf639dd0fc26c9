"""Trials and jobs that print far more than anybody reads and end: katuna stays small and hears Ctrl-C while it reads."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from searches import KATUNA, journal_events, katuna, write_experiment
from toy_jobs import write_job

ROOM_MB = 200
"""More than it takes to read a search whose trial prints one line."""
HEARD_WITHIN_S = 60.0
"""Far less than it takes to read all, far more than it takes to end."""
PATIENCE_S = 120.0


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KATUNA_HOME", "runs")


def printing(megabytes: int, again: Path | None = None) -> str:
    """A program that prints so much in metric lines, one value where `again` exists."""
    begin = f"import os, sys\nif os.path.exists({str(again)!r}): print('accuracy=0.25'); sys.exit()\n" if again else "import os\n"
    return (
        f"{begin}block = b''.join(b'accuracy=0.%d\\n' % n for n in range(10 ** 6, 10 ** 6 + 55_000))\n"
        f"for _ in range({megabytes}): os.write(1, block)\n"
    )


def interrupted_at_its_end(command: Sequence[str], log: str, megabytes: int) -> tuple[int, float]:
    """Runs katuna until a log below the runs holds all, then sends SIGINT; the exit code and katuna's largest size in MB."""
    with Path("said").open("wb") as said:
        process = subprocess.Popen([*KATUNA, *command], stdin=subprocess.DEVNULL, stdout=said, stderr=said)
    try:
        give_up = time.monotonic() + PATIENCE_S
        while sum(path.stat().st_size for path in Path("runs").glob(log)) < megabytes * 55_000 * len("accuracy=0.1000000\n"):
            assert process.poll() is None, Path("said").read_text()
            assert time.monotonic() < give_up
            time.sleep(0.1)
        time.sleep(2.0)
        assert process.poll() is None, "it is being read"
        process.send_signal(signal.SIGINT)
        give_up = time.monotonic() + HEARD_WITHIN_S
        largest_kb = 0
        while True:
            # Not rusage: a process begins there with the size of the one that it was forked from.
            with contextlib.suppress(OSError):
                found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
                largest_kb = max(largest_kb, int(found[1]) if found else 0)
            if process.poll() is not None:
                return process.returncode, largest_kb / 1024
            assert time.monotonic() < give_up, "it does not hear"
            time.sleep(0.05)
    finally:
        if process.returncode is None:
            process.kill()
            process.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="sizes are in other units elsewhere")
@pytest.mark.parametrize("megabytes", [150, pytest.param(1100, marks=pytest.mark.slow)])
def test_a_trial_that_printed_too_much_can_be_interrupted_and_begins_again(tmp_path: Path, megabytes: int) -> None:
    again = tmp_path / "again"
    write_experiment(tmp_path, printing(megabytes, again), maxTrialCount=1, parallelTrialCount=1)
    code, size_mb = interrupted_at_its_end(["tune", "experiment.yaml", "--cold"], "*/trials/*/log", megabytes)
    assert code == 130, Path("said").read_text()
    assert size_mb < ROOM_MB
    assert [event["event"] for event in journal_events(Path("runs/toy")) if event["event"] == "Exited"] == []
    again.touch()
    assert katuna("resume", "toy").returncode == 0
    ended = [event for event in journal_events(Path("runs/toy")) if event["event"] == "Exited"]
    assert len(ended) == 1
    assert re.search(r"accuracy\s+0\.25\b|0\.25", katuna("best", "toy").stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="sizes are in other units elsewhere")
@pytest.mark.parametrize("megabytes", [150, pytest.param(1100, marks=pytest.mark.slow)])
def test_a_job_that_printed_too_much_can_be_interrupted(tmp_path: Path, megabytes: int) -> None:
    write_job(tmp_path, printing(megabytes))
    _, size_mb = interrupted_at_its_end(["train", "job.yaml", "--cold"], "*/log", megabytes)
    assert size_mb < ROOM_MB
    assert "Traceback" not in Path("said").read_text()
