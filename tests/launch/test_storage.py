"""A disk that has failed ends no trial for good: the launcher says so, and the same trial runs once there is room."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from launch_jobs import PATIENCE_S, ALauncher, a_launcher, a_request, carriers, run_one, the_end, until

import katuna
from katuna.errors import StoreFailed
from katuna.launch import storage
from katuna.launch.warm.starter import WarmStarter
from katuna.runs import conduct, rundir
from katuna.runs.plan import RunOptions
from katuna.runs.run import Training
from katuna.search.contracts import TrialRequest
from katuna.search.trials import Exited, Reported
from searches import write_experiment
from toy_jobs import write_job

FILLS_THE_DISK = 'cat /dev/zero > "$KATUNA_TRIAL_DIR/big"; '
DISK = ("ENOSPC", "EDQUOT", "EROFS", "EIO", "ESTALE")
MACHINE = ("EMFILE", "ENFILE", "EAGAIN", "ENOMEM", "ENOLCK")


@pytest.fixture
def trials(tmp_path: Path) -> Path:
    """Where trials' folders are in a run that is called digits-2."""
    return tmp_path / "digits-2" / "trials"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB; the trials' folders below it, in the run digits-2."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    mount = subprocess.run(command, capture_output=True, text=True, check=False) if shutil.which("mount") else None
    if mount is None or mount.returncode:
        pytest.skip(f"no file system can be mounted here: {mount.stderr.strip() if mount else 'no mount command'}")
    try:
        trials = disk / "digits-2" / "trials"
        trials.mkdir(parents=True)
        yield trials
    finally:
        subprocess.run(["umount", str(disk)], check=True)  # noqa: S607


def fill(folder: Path) -> Path:
    big = folder / "big"
    with big.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        assert [file.write(bytes(4096)) for _ in iter(int, 1)]
    return big


def failing_with(number: int) -> Any:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def failure_of(launcher: ALauncher, request: TrialRequest) -> str:
    with pytest.raises(StoreFailed) as caught:
        run_one(launcher, request)
    return str(caught.value)


# On a file system that is full


def test_a_full_disk_starts_no_trial_and_fails_none(small_disk: Path) -> None:
    launcher, big = a_launcher(small_disk), fill(small_disk)
    message = failure_of(launcher, a_request(0, "true"))
    assert message.startswith(str(small_disk / "t0"))
    assert "No space left on device" in message
    assert "Everything recorded before is kept" in message
    assert "`katuna resume digits-2`" in message
    launcher.close()
    big.unlink()
    again = a_launcher(small_disk)
    assert the_end(run_one(again, a_request(0, "true"))).code == 0
    again.close()


def test_a_trial_that_fills_the_disk_and_dies_of_it(small_disk: Path) -> None:
    launcher = a_launcher(small_disk)
    message = failure_of(launcher, a_request(0, "sh", "-c", FILLS_THE_DISK + "exit 3", backoffLimit=5))
    assert "No space left on device" in message
    assert "trial t0" in message
    assert "exited with code 3" in message
    assert "`katuna resume digits-2`" in message
    launcher.close()


def test_a_trial_whose_values_found_no_room(small_disk: Path) -> None:
    """A shell's echo may fail unnoticed: the trial ends well, and its log is empty."""
    launcher = a_launcher(small_disk)
    message = failure_of(launcher, a_request(0, "sh", "-c", FILLS_THE_DISK + "echo accuracy=0.5; exit 0"))
    assert "it left no result" in message
    launcher.close()


def test_a_trial_that_has_its_result_needs_no_room(small_disk: Path) -> None:
    launcher = a_launcher(small_disk)
    end = the_end(run_one(launcher, a_request(0, "sh", "-c", "echo accuracy=0.5; " + FILLS_THE_DISK + "exit 0")))
    assert (end.code, end.reason) == (0, "Completed")
    launcher.close()


def test_a_job_that_dies_of_a_full_disk_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    script = f'test -f "$KATUNA_TRIAL_DIR/seen" && exit 0; touch "$KATUNA_TRIAL_DIR/seen"; {FILLS_THE_DISK} exit 3'
    file = write_job(tmp_path, "", workers=1, container={"command": ["sh", "-c", script.replace("$", "$$")]})
    with pytest.raises(StoreFailed, match=r"No space left on device \(pod toy-.*exited with code 3.*`katuna resume toy`"):
        katuna.train(file, home=small_disk)
    folder = rundir.find("toy", small_disk)
    assert Training(folder).state == "Interrupted"
    (folder.path / "big").unlink()
    assert conduct.resume(str(folder.path)).state == "Succeeded"


def test_a_trial_that_is_stopped_on_a_full_disk_has_its_end(small_disk: Path) -> None:
    launcher = a_launcher(small_disk)
    launcher.start(a_request(0, "sh", "-c", f"echo loss=1; {FILLS_THE_DISK} sleep 600"))
    while not any(isinstance(event, Reported) for event in launcher.poll(1.0)):
        pass
    assert until(lambda: storage.full(small_disk) is not None)
    launcher.stop(0, 5.0)
    end = launcher.poll(PATIENCE_S)[-1]
    assert isinstance(end, Exited)
    assert end.reason == "Stopped"
    launcher.close()


def test_a_trial_that_fails_where_there_is_room_has_failed(small_disk: Path) -> None:
    launcher = a_launcher(small_disk)
    end = the_end(run_one(launcher, a_request(0, "sh", "-c", FILLS_THE_DISK + 'rm "$KATUNA_TRIAL_DIR/big"; exit 3')))
    assert (end.code, end.reason) == (3, "Error")
    assert sorted(entry.name for entry in (small_disk / "t0").iterdir()) == [".pods", "job.yaml", "log"]
    launcher.close()


# With errors made up


@pytest.mark.parametrize("name", [*DISK, *MACHINE])
@pytest.mark.parametrize(
    "place", ["pathlib.Path.mkdir", "katuna.launch.container.claim", "pathlib.Path.write_text", "pathlib.Path.open"]
)
def test_files_of_katunas_own_that_cannot_be_written(
    trials: Path, monkeypatch: pytest.MonkeyPatch, place: str, name: str
) -> None:
    launcher, number = a_launcher(trials), getattr(errno, name)
    with monkeypatch.context() as patch:
        patch.setattr(place, failing_with(number))
        message = failure_of(launcher, a_request(0, "true"))
    what = "cannot go on" if name in MACHINE else "cannot be written"
    assert message.startswith(f"{trials / 't0'}: {what}: {os.strerror(number)}")
    assert "`katuna resume digits-2`" in message
    launcher.close()
    assert the_end(run_one(launcher, a_request(0, "true"))).code == 0, "its folder is free again"
    launcher.close()


def test_a_folder_that_is_not_ours_is_no_failure_of_the_disk(trials: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("katuna.launch.container.claim", failing_with(errno.EACCES))
    launcher = a_launcher(trials)
    assert the_end(run_one(launcher, a_request(0, "true"))).reason == "StartError"
    launcher.close()


@pytest.mark.parametrize("name", ["EIO", "EMFILE"])
def test_a_log_that_can_no_longer_be_read(tmp_path: Path, trials: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    mark = f"mark-{uuid.uuid4()}"
    launcher = a_launcher(trials)
    asked = tmp_path / "asked"
    script = f"trap 'touch {asked}; exit' TERM; echo accuracy=1; sleep 600 & wait; echo {mark}"
    launcher.start(a_request(0, "sh", "-c", script))
    while not any(isinstance(event, Reported) for event in launcher.poll(1.0)):
        pass
    monkeypatch.setattr("katuna.metrics.tail.LogTail.read", failing_with(getattr(errno, name)))
    with pytest.raises(StoreFailed, match=os.strerror(getattr(errno, name))):
        launcher.poll(PATIENCE_S)
    launcher.close()
    assert asked.exists(), "it has its grace period"
    assert carriers(mark) == []


def test_what_becomes_of_a_trial_after_a_shortage_is_not_told(
    tmp_path: Path, trials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins again, so its end is none, even one of its own."""
    mark, go = f"mark-{uuid.uuid4()}", tmp_path / "go"
    launcher = a_launcher(trials)
    launcher.start(a_request(0, "sh", "-c", f"echo accuracy=1; until [ -e {go} ]; do sleep 0.05; done; exit 3; echo {mark}"))
    while not any(isinstance(event, Reported) for event in launcher.poll(1.0)):
        pass
    with monkeypatch.context() as patch:
        patch.setattr("katuna.metrics.tail.LogTail.read", failing_with(errno.EMFILE))
        with pytest.raises(StoreFailed):
            launcher.poll(PATIENCE_S)
    assert carriers(mark)
    go.touch()
    with pytest.raises(StoreFailed):
        launcher.poll(PATIENCE_S)
    launcher.close()
    assert carriers(mark) == []


@pytest.mark.skipif(sys.platform != "linux", reason="no warm starts elsewhere")
def test_a_warm_start_needs_no_descriptor_of_its_guard(tmp_path: Path, trials: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trial.py").write_text("print('accuracy=1')")
    launcher = a_launcher(trials, starter=WarmStarter())
    command = (sys.executable, str(tmp_path / "trial.py"))
    assert the_end(run_one(launcher, a_request(0, *command))).code == 0
    monkeypatch.setattr("os.pidfd_open", failing_with(errno.EMFILE))
    events = run_one(launcher, a_request(1, *command))
    assert (the_end(events).code, events[0].process["start"]) == (0, "warm")  # type: ignore[union-attr]
    launcher.close()


@pytest.mark.skipif(sys.platform != "linux", reason="no warm starts elsewhere")
def test_a_trial_that_waits_for_a_warm_start_is_not_to_blame_either(
    tmp_path: Path, trials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server dies before it has taken the trial, and no process can be started in its place."""
    silent = tmp_path / "silent.py"
    silent.write_text("import time; time.sleep(600)")
    monkeypatch.setattr("katuna.launch.warm.starter.FORKSERVER", silent)
    starter = WarmStarter()
    launcher = a_launcher(trials, starter=starter)
    (tmp_path / "trial.py").write_text("")
    launcher.start(a_request(0, sys.executable, str(tmp_path / "trial.py")))
    assert launcher.poll(0.0) == []
    (server,) = starter._servers
    monkeypatch.setattr("subprocess.Popen", failing_with(errno.EAGAIN))
    server._process.kill()
    for _ in range(3):
        with pytest.raises(StoreFailed, match=r"RLIMIT_NPROC is .*`ulimit -u`"):
            launcher.poll(PATIENCE_S)
    launcher.close()


@pytest.mark.parametrize("name", ["EMFILE", "ENOLCK", "ENOSPC"])
def test_a_shortage_anywhere_pauses_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Also where nobody in particular looks out for it."""
    monkeypatch.chdir(tmp_path)
    file = write_experiment(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("katuna.runs.rundir.RunDir.trim", failing_with(getattr(errno, name)))
        with pytest.raises(StoreFailed, match=r"`katuna resume toy`$"):
            katuna.tune(file, options=RunOptions(keep=1))
    assert conduct.resume("toy").state == "Succeeded"


@pytest.mark.parametrize("name", ["EMFILE", "ENOLCK", "ENOSPC"])
def test_a_shortage_anywhere_pauses_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_job(tmp_path, "print('loss=1')")
    with monkeypatch.context() as patch:
        patch.setattr("katuna.metrics.anyname.AnyNameTail.read", failing_with(getattr(errno, name)))
        with pytest.raises(StoreFailed, match=r"`katuna resume toy`$"):
            katuna.train(file)
    assert conduct.resume("toy").state == "Succeeded"


def test_a_failed_trial_whose_folder_takes_nothing(trials: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("katuna.launch.storage.os.fsync", failing_with(errno.EDQUOT))
    launcher = a_launcher(trials)
    message = failure_of(launcher, a_request(0, "sh", "-c", "exit 3"))
    assert f"{trials / 't0'}: cannot be written: {os.strerror(errno.EDQUOT)} (trial t0 has most likely failed of it" in message
    launcher.close()


def test_a_failed_trial_that_took_its_folder_along_has_failed(trials: Path) -> None:
    launcher = a_launcher(trials)
    assert the_end(run_one(launcher, a_request(0, "sh", "-c", 'rm -r "$KATUNA_TRIAL_DIR"; exit 3'))).code == 3
    launcher.close()


def test_what_happened_before_is_told_first_and_the_others_are_ended(trials: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = f"mark-{uuid.uuid4()}"
    launcher = a_launcher(trials)
    launcher.start(a_request(0, "sh", "-c", f"echo accuracy=1; sleep 600; echo {mark}"))
    while not any(isinstance(event, Reported) for event in launcher.poll(1.0)):
        pass
    launcher.start(a_request(1, "true"))
    launcher.stop(1, 0.0)
    monkeypatch.setattr("katuna.launch.container.claim", failing_with(errno.ENOSPC))
    launcher.start(a_request(2, "true"))
    (end,) = launcher.poll(1.0)
    assert (type(end), end.number) == (Exited, 1)
    for _ in range(2):
        with pytest.raises(StoreFailed):
            launcher.poll(1.0)
    assert carriers(mark)
    launcher.close(0.2)
    assert carriers(mark) == []
    assert launcher.poll(0.0) == []
