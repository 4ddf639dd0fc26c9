"""A job run from Python, its journal, and the readers of its log."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest

import katuna
from katuna.cli.lines import READ_BYTES, Lines
from katuna.errors import InputRefused, JournalDamaged, RunNotFound
from katuna.jobs.lifecycle import ContainerExited, ContainerStarted
from katuna.launch.local_options import LocalOptions
from katuna.metric_line import Report
from katuna.metrics.anyname import MOST_NAMES, AnyNameTail
from katuna.runs import journal, rundir
from katuna.runs.containers import containers
from katuna.runs.plan import RunOptions
from katuna.runs.run import Training
from katuna.search.trials import Asked, Ended, Event, Noted, Opened, Reported, Resumed
from toy_jobs import STEPS, write_job

OPENED = Opened(1.0, "toy", 0, "0" * 64, {"katuna": "1"}, {"local": {"device": "job"}, "changes": [["spec.a", "1"]]})
EVENTS: tuple[Event, ...] = (
    OPENED,
    Asked(1.5, 0, "toy", {}),
    Noted(1.75, 0, "waiting for 1 GPU that other processes have"),
    ContainerStarted(2.0, 0, "toy-master-0", "pytorch", 0, {"pid": 7, "guard": 6, "start": "warm"}),
    Reported(3.0, 0, (Report("loss", "0.5"), Report("loss", "0.25", 1_000_000))),
    ContainerExited(4.0, 0, "toy-master-0", "pytorch", 0, 137, "OOMKilled", "too much"),
    ContainerExited(4.5, 0, "toy-master-0", "side", 0, None, "StartError"),
    Resumed(5.0, (0,)),
    Ended(6.0, False, "PyTorchJobFailed", "said \u2028 so"),
)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(path: Path, *events: object) -> Path:
    path.write_bytes(b"".join(map(journal.encode, events)))  # type: ignore[arg-type]
    return path


def test_events_of_a_training_come_back_from_its_journal(tmp_path: Path) -> None:
    path = written(tmp_path / "journal.jsonl", *EVENTS)
    assert tuple(event for event, _ in journal.read(path)) == EVENTS


@pytest.mark.parametrize(("events", "line"), [((EVENTS[1],), 1), ((OPENED, OPENED), 2), ((OPENED, EVENTS[3]), 2)])
def test_an_event_that_cannot_stand_there_is_damage(tmp_path: Path, events: tuple[object, ...], line: int) -> None:
    path = written(tmp_path / "journal.jsonl", *events)
    with pytest.raises(JournalDamaged, match=f"line {line}"):
        list(journal.read(path))


def test_a_job_took_the_time_in_which_it_ran(tmp_path: Path) -> None:
    run = Training(rundir.RunDir(tmp_path))
    begun = (Opened(100.0, "toy", 0, "", {}, {}), Asked(101.0, 0, "toy", {}))
    stopped = ContainerExited(107.0, 0, "toy-master-0", "pytorch", 0, 143, "Stopped")
    written(run.folder.journal, *begun, stopped, Resumed(9000.0, (0,)), Ended(9003.0, True, "Completed", ""))
    assert run.took_s == 10.0
    written(run.folder.journal, *begun, ContainerStarted(time.time() - 60.0, 0, "toy-master-0", "pytorch", 0, {}))
    with run.folder.locked():
        running = Training(run.folder)
        assert running.took_s > running.events[-1].at - 100.0 + 59.0, "also while nothing is told"


def test_options_come_back_from_the_journal() -> None:
    local = LocalOptions(claims={"data": "./here"}, cold=True, restarts="as-operator")
    options = RunOptions(local, name="toy", nproc="2", changes=(("spec.a", "x=1"),), secrets=("/somewhere/keys.yaml",))
    assert RunOptions.from_json(options.as_json()) == options
    assert options.overrides == ["--nproc 2", "--set spec.a=x=1"]


def test_a_job_from_python_prints_nothing_and_returns_its_status(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_job(tmp_path, STEPS, "2", "0", workers=1)
    seen: list[object] = []
    training = katuna.train(path, watch=lambda event, _: seen.append(event))
    assert capfd.readouterr() == ("", "")
    assert training.state == "Succeeded"
    assert training.metrics == {"step": "2", "loss": "0.5000"}
    assert training.status["conditions"][-1]["type"] == "Succeeded"
    assert [type(event) for event in seen] == [type(event) for event in training.events[1:]]
    worker = containers(training.events)["toy-worker-0", "pytorch"]
    assert worker.started is not None
    assert worker.exited is not None
    assert (worker.started.restarts, worker.exited.code, worker.starts) == (0, 0, 1)
    assert katuna.Training(training.folder).status == training.status
    assert isinstance(katuna.load("toy"), katuna.Training)


def test_a_failed_job_from_python_is_a_value_too(tmp_path: Path) -> None:
    training = katuna.train(write_job(tmp_path, "import sys; print('loss=1'); sys.exit(3)"))
    assert training.state == "Failed"
    assert training.ended is not None
    assert "3" in training.ended.message
    assert training.metrics == {"loss": "1"}


def test_a_keyboard_interrupt_ends_the_replicas_and_the_job_can_be_resumed(tmp_path: Path) -> None:
    path = write_job(tmp_path, STEPS, "600", "0.1", workers=1)
    pids: list[int] = []

    def watch(event: object, _: object) -> None:
        if isinstance(event, ContainerStarted):
            pids.append(event.process["pid"])  # type: ignore[arg-type]
        if len(pids) == 2 and timer.ident is None:
            timer.start()

    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        katuna.train(path, watch=watch)
    timer.join()
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    found = katuna.Training(rundir.find("toy"))
    assert found.state == "Interrupted"


def test_a_pause_before_something_begins_again_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("katuna.jobs.lifecycle.kubelet_backoff_s", lambda _crashes: 1.0)
    write_job(tmp_path, "import os\nos.path.exists('seen') or (open('seen', 'w'), os._exit(3))", restart="OnFailure")
    options = RunOptions(LocalOptions(restarts="as-operator"))
    training = katuna.train("job.yaml", options=options)
    assert training.state == "Succeeded"
    told = [event.text for event in training.events if isinstance(event, Noted)]
    assert [text for text in told if "Python starts" not in text] == ["toy-master-0 begins again in 1 s"]


@pytest.mark.parametrize("text", [None, "", "spec: [", "- kind: PyTorchJob", "kind: PyTorchJob"])
def test_a_run_whose_job_was_changed_by_hand_says_what_to_do(tmp_path: Path, text: str | None) -> None:
    write_job(tmp_path, STEPS, spec={"runPolicy": {"suspend": True}})
    folder = katuna.train("job.yaml").folder
    if text is None:
        folder.as_run.unlink()
    else:
        folder.as_run.write_text(text)
    with pytest.raises(InputRefused, match=r"put back what was there, or begin anew with `katuna train .*/job\.yaml`"):
        _ = Training(folder).job


def test_a_run_that_is_removed_meanwhile_is_said_to_be_gone(tmp_path: Path) -> None:
    write_job(tmp_path, STEPS, spec={"runPolicy": {"suspend": True}})
    run = katuna.train("job.yaml")
    run.folder.remove()
    with pytest.raises(RunNotFound, match="is gone"):
        _ = Training(run.folder).state


def test_an_empty_journal_is_named(tmp_path: Path) -> None:
    write_job(tmp_path, STEPS, spec={"runPolicy": {"suspend": True}})
    folder = katuna.train("job.yaml").folder
    folder.journal.write_text("")
    with pytest.raises(InputRefused, match="is empty"):
        _ = Training(folder).status


def test_a_run_without_its_jobs_file_is_no_search(tmp_path: Path) -> None:
    write_job(tmp_path, STEPS, spec={"runPolicy": {"suspend": True}})
    folder = katuna.train("job.yaml").folder
    folder.job.unlink()
    assert folder.is_training


# Readers of logs


def test_metrics_of_any_name_are_read_where_they_are_finite_numbers(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before=1\n")
    tail = AnyNameTail(log, log.stat().st_size)
    with log.open("a") as file:
        file.write("epoch=1 loss=0.5 name=abc nan=nan empty=\n2026-01-01T00:00:00Z val-acc = 0.9\nno pairs here\nlast=3")
    assert [(report.metric, report.value) for report in tail.read()] == [("epoch", "1"), ("loss", "0.5"), ("val-acc", "0.9")]
    assert [(report.metric, report.value) for report in tail.finish()] == [("last", "3")]
    with log.open("a") as file:
        file.write("\n" + "".join(f"n{number}=1\n" for number in range(2 * MOST_NAMES)) + "loss=0.25\n")
    names = [report.metric for report in tail.read()]
    assert len(set(names)) <= MOST_NAMES
    assert names[-1] == "loss"
    tail.close()


@pytest.mark.parametrize("cut", range(1, 16))
def test_lines_are_the_same_wherever_a_read_cuts_them(tmp_path: Path, cut: int) -> None:
    text = b"one\r\ntwo\rstate\rthree\n\nlast"
    log, lines = tmp_path / "log", Lines(tmp_path / "log")
    seen = [*lines.states()]
    log.write_bytes(text[:cut])
    seen += lines.states()
    log.write_bytes(text)
    seen += lines.states(last=True)
    assert seen == [("one", False), ("two", True), ("state", True), ("three", False), ("", False), ("last", False)]


def test_what_a_writer_adds_meanwhile_waits_for_the_next_look(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("one\ntwo\nthree\n")
    lines = Lines(log)
    assert list(lines.states(most_bytes=8)) == [("one", False), ("two", False)]
    assert list(lines.states(most_bytes=3)) == []
    assert list(lines.states(last=True, most_bytes=1)) == [("three", False)]


def test_no_more_is_counted_of_what_is_left_out_than_takes_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("katuna.cli.lines.COUNTED_BYTES", 1000)
    log = tmp_path / "log"
    log.write_text("0123456789abcde\n" * 10_000)
    assert re.fullmatch(r"more than 6\d lines", Lines(log).skip(1600))


@pytest.mark.parametrize("made", ["fifo", "link", "device"])
def test_a_log_that_is_no_file_is_said_once(tmp_path: Path, made: str) -> None:
    log = tmp_path / "log"
    if made == "fifo":
        os.mkfifo(log)
    else:
        log.symlink_to("/dev/zero" if made == "device" else __file__)
    lines = Lines(log)
    assert lines.skip(1000) == ""
    (said,) = lines.new()
    assert said.startswith(f"{log}: it is ")
    assert list(lines.new(last=True)) == []


def test_a_log_of_a_terabyte_that_takes_up_no_disk_is_read_at_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\ntwo\n")
    os.truncate(log, 1 << 40)
    with log.open("ab") as file:
        file.write(b"\nthree\n")
    assert [line.strip("\0") for line in Lines(log).new()] == ["one", "two", "", "three"]


def test_what_is_left_out_is_counted_and_a_long_line_is_cut_into_pieces(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(10_000)))
    lines = Lines(log)
    assert lines.skip(log.stat().st_size) == ""
    left_out = int(lines.skip(1000).removesuffix(" lines"))
    shown = list(lines.new())
    assert shown == [f"line {number}" for number in range(left_out, 10_000)]
    assert 400 <= sum(map(len, shown)) + len(shown) <= 1000
    log.write_bytes(log.read_bytes() + b"x" * (2 * READ_BYTES + 5))
    pieces = [*lines.new(), *lines.new(last=True)]
    assert "".join(pieces) == "x" * (2 * READ_BYTES + 5)
