"""Run folders that somebody else has written: no link is followed out of them, and no process is signalled for what a lock says."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from factories import a_life, opened
from katuna.errors import InputRefused, StoreFailed
from katuna.runs import rundir
from katuna.runs.holder import Holder
from katuna.runs.journal import Journal, begin, drop_after, read
from katuna.runs.rundir import RunDir
from katuna.search.trials import Exited, Started
from searches import await_line, await_none, katuna, spawn, write_experiment


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run() -> RunDir:
    return rundir.create(
        "toy", {"experiment.yaml": b"a: 1\n", "journal.jsonl": begin([opened(), *a_life(0, {"lr": "0.1"}, 0.5)])}
    )


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["/bin/sleep", "600"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("name", ["lock", "journal.jsonl"])
@pytest.mark.parametrize("what", ["link", "dangling link", "FIFO"])
def test_a_lock_or_journal_that_is_no_file_of_the_run_is_refused(run: RunDir, tmp_path: Path, name: str, what: str) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(run.journal.read_bytes())
    before = precious.read_bytes()
    (run.path / name).unlink(missing_ok=True)
    if what == "FIFO":
        os.mkfifo(run.path / name)
    else:
        (run.path / name).symlink_to(precious if what == "link" else tmp_path / "new")
    with pytest.raises(InputRefused, match=rf"{name}: it is (a link|no regular file)"), contextlib.ExitStack() as stack:
        stack.enter_context(run.locked()) if name == "lock" else list(read(run.journal))
    if name == "journal.jsonl":
        with pytest.raises(StoreFailed):
            Journal(run.journal)
    assert run.holder() is None
    assert precious.read_bytes() == before
    assert not (tmp_path / "new").exists()


def test_a_report_replaces_a_link_and_leaves_its_target(tmp_path: Path) -> None:
    write_experiment(tmp_path)
    assert katuna("tune", "experiment.yaml").returncode == 0
    (tmp_path / "precious").write_text("mine")
    for link in ("report.html", ".report.html.new"):
        (tmp_path / "runs" / "toy" / link).symlink_to(tmp_path / "precious")
    assert katuna("report").returncode == 0
    assert (tmp_path / "precious").read_text() == "mine"
    assert (tmp_path / "runs" / "toy" / "report.html").read_text().startswith("<!")
    assert not (tmp_path / "runs" / "toy" / "report.html").is_symlink()


def test_drop_after_writes_through_no_link(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    for name in ("journal.jsonl.new", "journal.jsonl.damaged-1"):
        (run.path / name).symlink_to(tmp_path / ("precious" if name.endswith("new") else "nowhere"))
    run.journal.write_bytes(run.journal.read_bytes().replace(b'"number": 0', b'"number": 7'))
    assert drop_after(run.journal, 1).name == "journal.jsonl.damaged-2"
    assert (tmp_path / "precious").read_text() == "mine"
    assert len(list(read(run.journal))) == 1


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"host": "elsewhere"}, "on the host elsewhere"),
        ({"boot": "another"}, "before this machine was last booted"),
        ({"namespace": "pid:[1]"}, "another PID namespace"),
        ({"started": "1"}, "is not the one that wrote its lock"),
        ({"host": ""}, "no more than a pid"),
        ({"pid": 0}, "does not say which process"),
    ],
)
def test_stop_signals_nobody_but_the_process_that_wrote_the_lock(
    run: RunDir, bystander: subprocess.Popen[bytes], changes: dict[str, str], word: str
) -> None:
    """The lock is held by somebody, and says something else of him than holds for the bystander."""
    started = Path(f"/proc/{bystander.pid}/stat").read_text().rpartition(")")[2].split()[19]
    says = replace(Holder.me(), pid=bystander.pid, started=started)
    assert says.out_of_reach == ""
    said = replace(says, **changes)  # type: ignore[arg-type]
    run.lock.write_bytes(said.text if said.host else b"%d\n" % said.pid)
    with run.lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = katuna("stop", "toy")
        assert done.returncode == 2
        assert word in done.stderr
        assert "no process was signalled" in done.stderr
        assert run.holder() == said.pid
    assert bystander.poll() is None
    assert Holder.of(says.text) == says
    says.signal(signal.SIGTERM)
    assert bystander.wait(10) == -signal.SIGTERM


def test_keep_and_rm_touch_nothing_outside_of_the_run(run: RunDir, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "model").write_text("mine")
    run.trial("a").symlink_to(outside)
    run.trim("a")
    assert (outside / "model").exists()
    assert katuna("rm", "-y", "toy").returncode == 0
    assert (outside / "model").exists()
    assert not run.path.exists()


def test_a_link_to_a_run_is_not_removed_by_half(run: RunDir, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    run.path.rename(elsewhere)
    run.path.symlink_to(elsewhere)
    done = katuna("rm", "-y", "toy")
    assert done.returncode == 2
    assert f"katuna rm {elsewhere}" in done.stderr
    assert run.path.is_symlink()
    assert sorted(path.name for path in elsewhere.iterdir()) == ["experiment.yaml", "journal.jsonl", "trials"]
    assert katuna("rm", "-y", str(elsewhere)).returncode == 0
    assert not elsewhere.exists()


MAKES = """
import os, sys
from pathlib import Path
from katuna.runs import rundir
def wait(*_):
    print("there", flush=True)
    sys.stdin.read()
rundir.{step} = wait
run = rundir.create("toy", {{"journal.jsonl": b"x"}})
run.remove()
"""


@pytest.mark.parametrize("step", ["_take_name", "remove"])
@pytest.mark.parametrize("verb", ["ls", "rm", "create"])
def test_what_a_killed_maker_or_remover_left_is_cleared_up_and_what_is_at_work_is_not(
    tmp_path: Path, step: str, verb: str
) -> None:
    other = rundir.create("other", {"journal.jsonl": b""})
    maker = subprocess.Popen([sys.executable, "-c", MAKES.format(step=step)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert maker.stdout is not None
    assert maker.stdout.readline() == b"there\n"

    def left() -> int:
        return sum(rundir.HALF.fullmatch(path.name) is not None for path in (tmp_path / "runs").iterdir())

    rundir.clear_up()
    assert left() == 1, "it is at work"
    maker.kill()
    maker.communicate()
    time.sleep(rundir.JUST_MADE_S)
    (tmp_path / "runs" / ".mine-0123abcd.new").symlink_to(tmp_path)
    if verb == "create":
        rundir.create("toy", {})
    else:
        assert katuna(*({"ls": ["ls"], "rm": ["rm", "-y", other.name]}[verb])).returncode == 0
    assert left() == 1, "a link is nothing that katuna made"


@pytest.mark.parametrize("how", ["renamed", "removed", "replaced"])
def test_a_run_whose_folder_goes_away_while_it_runs_stops_with_a_word(tmp_path: Path, how: str) -> None:
    program = "import time; print('accuracy=0.1', flush=True); time.sleep(600)"
    write_experiment(tmp_path, program, maxTrialCount=2, env={"MARK": str(tmp_path)})
    process = spawn("tune", "experiment.yaml")
    run = tmp_path / "runs" / "toy"
    await_line(run / "journal.jsonl", '"Reported"', times=2)
    if how == "removed":
        run.rename(tmp_path / "moved")
        shutil.rmtree(tmp_path / "moved")
    else:
        run.rename(run.with_name("renamed"))
        if how == "replaced":
            shutil.copytree(run.with_name("renamed"), run, symlinks=True)
    began = time.monotonic()
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - began < 15
    assert process.returncode == 1
    assert "it was renamed, moved or removed while the run was at work" in said
    assert "Traceback" not in said
    assert await_none(str(tmp_path / "experiment"), 0.1) == []
    if how == "renamed":
        assert not run.exists(), "nothing is made anew where it was"
        assert "Interrupted" in katuna("ls").stdout
        assert '"Exited"' not in run.with_name("renamed").joinpath("journal.jsonl").read_text()


def test_a_failure_just_after_a_rename_is_no_failure_of_a_trial(run: RunDir) -> None:
    run.journal.write_bytes(begin([opened(), a_life(0, {"lr": "0.1"}, 0.5)[0]]))
    journal = Journal(run.journal, monotonic=lambda: 1.0)
    journal.append(Started(1.0, 0, 1, {}))
    run.path.rename(run.path.with_name("renamed"))
    with pytest.raises(StoreFailed, match="it was renamed"):
        journal.append(Exited(1.0, 0, 1, "Error"))
    journal.close()
    assert len(list(read(run.path.with_name("renamed") / "journal.jsonl"))) == 3
