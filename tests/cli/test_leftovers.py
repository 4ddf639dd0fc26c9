"""What runs on when katuna and its guards are killed together: `ls` and `show` say so, `rm` and `resume` end it, and nobody else's."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from katuna.errors import LaunchFailed
from katuna.launch.guard import TOKEN_VARIABLE
from katuna.launch.leftovers import release
from katuna.launch.process import claim
from searches import await_line, await_none, katuna, objects, processes_with, spawn, write_experiment

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux")


def until(condition: Callable[[], bool], within_s: float = 10.0) -> bool:
    give_up = time.monotonic() + within_s
    while not condition() and time.monotonic() < give_up:
        time.sleep(0.02)
    return condition()


@pytest.fixture
def mark() -> Iterator[str]:
    name = f"mark-{uuid.uuid4()}"
    yield name
    for pid in processes_with(name):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def orphans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str) -> Path:
    """The run of a search whose katuna and guard were killed while a trial had a child, which lives."""
    monkeypatch.chdir(tmp_path)
    text = "sleep 600 & echo accuracy=${trialParameters.lr}; sleep 601"
    write_experiment(tmp_path, command=["bash", "-c", text], env={"MARK": mark}, maxTrialCount=1, parallelTrialCount=1)
    process = spawn("tune", "experiment.yaml")
    run = tmp_path / "runs" / "toy"
    await_line(run / "journal.jsonl", '"Reported"')
    token = next(run.glob("trials/*/.pods/*/*/.guard")).read_text()
    guards = [pid for pid in processes_with(token) if token.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert guards
    for pid in guards:
        os.kill(pid, signal.SIGSTOP)
    process.kill()
    process.communicate()
    for pid in guards:
        os.kill(pid, signal.SIGKILL)
    assert until(lambda: len(processes_with(mark)) == 1), "the main process dies with its guard, its child does not"
    return run


def test_ls_and_show_say_that_something_still_runs_and_rm_ends_it_first(orphans: Path, mark: str) -> None:
    listed, shown = katuna("ls"), katuna("show", "toy")
    assert "still run" in listed.stderr
    assert str(processes_with(mark)[0]) in listed.stderr
    assert "Interrupted" in listed.stdout
    assert "still run" in shown.stdout
    assert "katuna rm toy" in shown.stdout
    assert set(processes_with(mark)) <= set(objects("ls")[0]["leftRunning"])
    assert katuna("rm", "-y", "toy").returncode == 0
    assert processes_with(mark) == []
    assert not orphans.exists()


def test_a_resume_ends_it_too_and_a_run_that_is_at_work_has_nothing_left(orphans: Path, mark: str) -> None:
    before = processes_with(mark)
    process = spawn("resume", "toy")
    await_line(orphans / "journal.jsonl", '"Reported"', times=2)
    assert not set(before) & set(processes_with(mark))
    assert "still run" not in katuna("ls").stderr
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert await_none(mark, 5) == []


def test_a_copy_of_a_run_is_no_claim_to_its_processes(orphans: Path, mark: str) -> None:
    shutil.copytree(orphans, orphans.with_name("copy"), symlinks=True)
    assert "copy: " not in katuna("ls").stderr
    before = processes_with(mark)
    assert katuna("rm", "-y", "copy").returncode == 0
    assert processes_with(mark) == before
    assert katuna("rm", "-y", "toy").returncode == 0
    assert processes_with(mark) == []


@pytest.mark.parametrize("how", ["a word", "a token and more", "a link", "a FIFO", "a folder that is a link", "a copy"])
def test_a_claim_that_katuna_did_not_write_ends_no_process(tmp_path: Path, how: str, mark: str) -> None:
    """No text of these is in the environment of any process but its own."""
    folder, other = tmp_path / "toy" / ".pods" / "pod" / "main", tmp_path / "other"
    folder.mkdir(parents=True)
    other.mkdir()
    held = claim(other)
    held.close()
    guard = folder / ".guard"
    if how == "a word":
        guard.write_text(mark)
    elif how == "a token and more":
        guard.write_text(held.token + "\n")
    elif how == "a link":
        guard.symlink_to(other / ".guard")
    elif how == "a FIFO":
        os.mkfifo(guard)
    elif how == "a folder that is a link":
        folder.rmdir()
        folder.symlink_to(other)
    else:
        guard.write_text(held.token)
    bystander = subprocess.Popen(["/bin/sleep", "600"], env={**os.environ, TOKEN_VARIABLE: held.token, "MARK": mark})
    try:
        assert until(lambda: processes_with(mark) == [bystander.pid])
        began = time.monotonic()
        if how in ("a folder that is a link", "a copy"):
            release(tmp_path / "toy")
        else:
            with pytest.raises(LaunchFailed, match=r"toy: .*\.guard: it .* then resume"):
                release(tmp_path / "toy")
        assert time.monotonic() - began < 10
        assert bystander.poll() is None
        release_of_other = tmp_path / "job" / ".pods" / "pod"
        release_of_other.mkdir(parents=True)
        other.rename(release_of_other / "main")
        release(tmp_path / "job")
        assert bystander.wait(10) == -signal.SIGKILL, "the folder itself may be renamed"
    finally:
        bystander.kill()
        bystander.wait()
