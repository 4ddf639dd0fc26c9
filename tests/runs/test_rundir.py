from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from katuna.errors import InputRefused, RunLocked, RunNotFound
from katuna.runs import rundir
from katuna.runs.rundir import RunDir


def make_run(name: str) -> RunDir:
    return rundir.create(name, {"experiment.yaml": b"a: 1\n", "journal.jsonl": b""})


def test_a_second_run_of_a_file_gets_a_name_of_its_own() -> None:
    names = [rundir.create("digits", {}).name for _ in range(3)]
    assert names == ["digits", "digits-2", "digits-3"]


def test_files_are_kept_byte_for_byte(tmp_path: Path) -> None:
    content = "a: 1\r\n# ünï\n".encode()
    run = rundir.create("digits", {"experiment.yaml": content})
    assert run.experiment.read_bytes() == content
    assert [entry.name for entry in run.path.parent.iterdir()] == ["digits"]


def test_found_by_name_prefix_path_and_as_the_latest() -> None:
    first, second = make_run("digits-tpe"), make_run("digits-random")
    os.utime(second.journal, (1, 1))
    assert rundir.find("digits-tpe") == first
    assert rundir.find("digits-r") == second
    assert rundir.find(str(second.path)) == second
    assert rundir.find(None) == first
    with pytest.raises(RunNotFound, match="could be any of: digits-random, digits-tpe"):
        rundir.find("digits")
    with pytest.raises(RunNotFound, match="katuna ls"):
        rundir.find("mnist")


def test_an_exact_name_wins_over_longer_ones() -> None:
    first = make_run("digits")
    make_run("digits")
    assert rundir.find("digits") == first


def test_no_run_yet_says_how_to_start() -> None:
    with pytest.raises(RunNotFound, match=r"katuna tune FILE.*katuna train FILE"):
        rundir.find(None)


def test_one_writer_at_a_time_also_in_one_process() -> None:
    run = make_run("digits")
    assert run.holder() is None
    with run.locked():
        assert run.holder() == os.getpid()
        with pytest.raises(RunLocked, match=f"pid {os.getpid()}"), run.locked():
            pass
    assert run.holder() is None
    with run.locked():
        pass


def test_a_killed_writer_holds_nothing() -> None:
    run = make_run("digits")
    code = f"import time; from pathlib import Path; from katuna.runs.rundir import RunDir\nwith RunDir(Path({str(run.path)!r})).locked(): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert run.holder() == holder.pid
    finally:
        holder.kill()
        holder.communicate()
    assert run.holder() is None
    with run.locked():
        pass


def test_a_home_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputRefused, match="KATUNA_HOME"):
        rundir.create("digits", {}, tmp_path / "file" / "runs")


def test_trim_leaves_what_explains_a_trial() -> None:
    run = make_run("digits")
    folder = run.trial("other")
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "model").write_text("x")
    (folder / "events").mkdir()
    (folder / "elsewhere").symlink_to(run.path)
    for file in ("log", "job.yaml", "model.npz", ".guard"):
        (folder / file).write_text("x")
    run.trim("other")
    assert sorted(entry.name for entry in folder.iterdir()) == [".guard", "events", "job.yaml", "log"]
    assert run.experiment.exists(), "a link is removed, not what it points to"
    run.trim("never-there")


def test_a_removed_run_is_gone_and_its_name_free_again() -> None:
    for _ in range(2):
        run = make_run("digits")
        assert run.name == "digits"
        run.remove()
        assert rundir.all_runs() == []


def test_what_is_no_run_is_not_listed(tmp_path: Path) -> None:
    run = make_run("digits")
    for name in (".digits-1234.removed", ".digits-1234.new", "notes"):
        (run.path.parent / name).mkdir()
    (run.path.parent / ".digits-1234.removed" / "journal.jsonl").write_text("")
    (run.path.parent / "file").write_text("")
    assert rundir.all_runs() == [run]
    with pytest.raises(RunNotFound, match="empty"):
        rundir.find("")


def test_the_latest_is_the_one_last_written_to() -> None:
    old, new = make_run("a"), make_run("b")
    later = time.time() + 10
    os.utime(old.journal, (later, later))
    assert rundir.find(None) == old
    assert [run.name for run in rundir.all_runs()] == [new.name, old.name]


def test_messages_call_a_run_by_what_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("digits")
    assert run.handle == "digits"
    monkeypatch.setenv("KATUNA_HOME", str(tmp_path / "else where"))
    assert run.handle == str(run.path)
    other = rundir.create("digits", {"journal.jsonl": b""}, tmp_path / "my runs")
    assert rundir.find(*shlex.split(other.handle)) == other
