"""Code that a run keeps: lists in its folder, contents that the runs of a home share."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from katuna.errors import InputRefused, StoreFailed
from katuna.launch.local_options import LocalOptions
from katuna.runs import code, journal, rundir
from katuna.runs.code import Code, Difference, content, differences, keep, listing, prune, read, unpack
from katuna.runs.collect import collect
from katuna.runs.rundir import RunDir
from katuna.runs.snapshot import in_force, taking, todays
from katuna.search.trials import Asked, Edited, Exited, Opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    (made / "lib").mkdir(parents=True)
    (made / "train.py").write_text("x = 1\n")
    (made / "lib" / "part.py").write_text("y = 1\n")
    return made


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def make_run(name: str = "toy") -> RunDir:
    return rundir.create(name, {"experiment.yaml": b"a: 1\n", "journal.jsonl": b""})


def make_run_of(folder: Path, home: Path) -> tuple[RunDir, str]:
    with taking(LocalOptions(cwd=str(folder)), home) as taken:
        return rundir.create("toy", {**taken.files, "journal.jsonl": b""}, home), taken.digest


def contents(home: Path) -> set[str]:
    return {entry.name for entry in (home / ".code").iterdir()} - {"lock"}


def test_what_is_kept_is_read_again(folder: Path, home: Path) -> None:
    run, taken = make_run(), collect([folder, folder / "lib"])
    keep(taken, run)
    found = read(run, taken.digest)
    assert found == taken
    assert found.contents == {}
    assert content(run, found.files["train.py"]) == b"x = 1\n"
    assert content(run, found.files[f"{folder}/lib/part.py"]) == b"y = 1\n"
    assert contents(home) == set(taken.contents)
    assert {path.stat().st_mode & 0o777 for path in (home / ".code").iterdir()} == {0o600}
    assert (home / ".code").stat().st_mode & 0o777 == 0o700
    assert run.code(taken.digest).read_bytes() == listing(taken)


def test_it_is_unpacked_as_it_was_whatever_has_been_edited(folder: Path, tmp_path: Path) -> None:
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    os.utime(folder / "train.py", ns=(1, 7_000_000_123))
    run, taken = make_run(), collect([folder, folder / "lib"])
    keep(taken, run)
    (folder / "train.py").write_text("broken(")
    target = tmp_path / "tree"
    unpack(run, read(run, taken.digest), target)
    assert target.stat().st_mode & 0o777 == 0o700
    tree = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    assert tree == ["0/lib/part.py", "0/run.sh", "0/train.py", "1/part.py"]
    assert (target / "0" / "train.py").read_text() == "x = 1\n"
    assert (target / "0" / "train.py").stat().st_mtime_ns == 7_000_000_123
    assert [(target / "0" / name).stat().st_mode & 0o777 for name in ("train.py", "run.sh")] == [0o644, 0o755]
    with pytest.raises(FileExistsError):
        unpack(run, taken, target)


def test_no_folder_and_no_file_is_code_too(tmp_path: Path) -> None:
    run = make_run()
    for number, taken in enumerate([collect([]), collect([tmp_path / "runs"])]):
        keep(taken, run)
        unpack(run, read(run, taken.digest), tmp_path / f"tree-{number}")
    assert [path.name for path in (tmp_path / "tree-1").iterdir()] == ["0"]


DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no list": lambda plain: [plain],
    "another format": lambda plain: {**plain, "format": 2},
    "a root without files": lambda plain: {**plain, "roots": [{"path": "/"}]},
    "a file twice": lambda plain: changed(plain, path="lib/part.py", number=1),
    "a path that leads out": lambda plain: changed(plain, path="../part.py"),
    "an absolute path": lambda plain: changed(plain, path="/etc/passwd"),
    "a path that is no text": lambda plain: changed(plain, path=5),
    "a digest that is a path": lambda plain: changed(plain, sha256="../../experiment.yaml"),
    "a mode that gives rights": lambda plain: changed(plain, mode=0o4755),
    "a size that is none": lambda plain: changed(plain, bytes="5"),
    "another content": lambda plain: changed(plain, sha256="0" * 64),
}


def changed(plain: dict[str, Any], number: int = 0, **changes: Any) -> dict[str, Any]:
    plain["roots"][0]["files"][number].update(changes)
    return plain


@pytest.mark.parametrize("case", DAMAGE)
def test_a_list_that_katuna_did_not_write_is_refused(case: str, folder: Path) -> None:
    run, taken = make_run(), collect([folder])
    keep(taken, run)
    path = run.code(taken.digest)
    path.write_text(json.dumps(DAMAGE[case](json.loads(path.read_bytes()))))
    with pytest.raises(InputRefused, match="katuna resume toy --code new"):
        read(run, taken.digest)


def test_a_list_that_is_gone_or_no_json_is_refused(folder: Path) -> None:
    run, taken = make_run(), collect([folder])
    for digest in (taken.digest, "../experiment", ""):
        with pytest.raises(InputRefused, match="katuna resume toy --code new"):
            read(run, digest)
    for text in (b"", b"[" * 100_000, b"\xff{}"):
        keep(taken, run)
        run.code(taken.digest).write_bytes(text)
        with pytest.raises(InputRefused, match="not a list of files"):
            read(run, taken.digest)


@pytest.mark.parametrize("held", [b"y = 2\n", b"", b"y = 1\n and more"])
def test_content_that_is_damaged_is_refused_and_mended_by_keeping_anew(
    folder: Path, home: Path, tmp_path: Path, held: bytes
) -> None:
    run, taken = make_run(), collect([folder])
    keep(taken, run)
    file = taken.files["lib/part.py"]
    (home / ".code" / file.sha256).write_bytes(held)
    with pytest.raises(InputRefused, match=r"lib/part\.py.*damaged.*katuna resume toy --code new"):
        unpack(run, taken, tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
    keep(taken, run)
    unpack(run, taken, tmp_path / "tree")


def test_a_run_that_was_copied_without_the_contents_says_so(folder: Path, tmp_path: Path) -> None:
    run, taken = make_run(), collect([folder])
    keep(taken, run)
    copied = RunDir(shutil.copytree(run.path, tmp_path / "elsewhere" / "toy"))
    with pytest.raises(InputRefused, match=r"needs the folder \.code beside it.*--code new"):
        content(copied, taken.files["train.py"])


def test_a_full_disk_leaves_nothing_half(folder: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    run, taken = make_run(), collect([folder])
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreFailed, match="No space left"):
            keep(taken, run)
    assert contents(home) == set()
    assert not run.code(taken.digest).exists()
    keep(taken, run)
    monkeypatch.setattr(os, "fchmod", lambda fd, mode: full(fd))
    with pytest.raises(StoreFailed, match="No space left"):
        unpack(run, taken, tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


def test_differences_are_named(folder: Path) -> None:
    before = collect([folder, folder / "lib"])
    assert differences(before, before) == []
    (folder / "train.py").chmod(0o755)
    (folder / "lib" / "part.py").unlink()
    (folder / "lib" / "new.py").write_text("")
    found = differences(before, collect([folder, folder / "lib"]))
    assert found == [
        Difference(f"{folder}/lib/new.py", "added"),
        Difference(f"{folder}/lib/part.py", "removed"),
        Difference("lib/new.py", "added"),
        Difference("lib/part.py", "removed"),
        Difference("train.py", "changed"),
    ]


# Sharing


def test_runs_with_the_same_files_share_them_until_the_last_goes(folder: Path, home: Path) -> None:
    first, digest = make_run_of(folder, home)
    second, same = make_run_of(folder, home)
    assert (digest, second.name) == (same, "toy-2")
    both = contents(home)
    assert len(both) == 2
    (folder / "train.py").write_text("x = 2\n")
    third, other = make_run_of(folder, home)
    assert other != digest
    assert len(contents(home)) == 3
    for run, left in ((first, 3), (third, 2), (second, 0)):
        run.remove()
        prune(home)
        assert len(contents(home)) == left
    prune(home / "nowhere")


def test_what_a_run_has_used_before_stays(folder: Path, home: Path) -> None:
    run, digest = make_run_of(folder, home)
    (folder / "train.py").write_text("x = 2\n")
    keep(collect([folder]), run)
    (home / ".code" / ".left-over.new").write_bytes(b"half")
    prune(home)
    assert len(contents(home)) == 3
    assert content(run, read(run, digest).files["train.py"]) == b"x = 1\n"


def test_a_list_that_is_damaged_still_holds_its_contents(folder: Path, home: Path) -> None:
    run, digest = make_run_of(folder, home)
    path = run.code(digest)
    path.write_bytes(path.read_bytes()[:-5])
    prune(home)
    assert len(contents(home)) == 2


def test_nothing_is_removed_while_a_run_is_being_made(folder: Path, home: Path) -> None:
    pruned = threading.Event()

    def other() -> None:
        prune(home)
        pruned.set()

    with taking(LocalOptions(cwd=str(folder)), home) as taken:
        thread = threading.Thread(target=other)
        thread.start()
        assert not pruned.wait(0.2)
        run = rundir.create("toy", {**taken.files, "journal.jsonl": b""}, home)
    thread.join(10)
    assert pruned.is_set()
    unpack(run, read(run, taken.digest), home / "tree")


def _make_and_remove(folder: Path, home: Path, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        run, digest = make_run_of(folder, home)
        unpack(run, read(run, digest), run.path / "tree")
        run.remove()
        prune(home)


def test_many_make_and_remove_runs_at_a_time(folder: Path, home: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_make_and_remove, args=(folder, home, 1.0)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    prune(home)
    assert contents(home) == set()


def test_the_lock_is_free_when_a_run_cannot_be_made(folder: Path, home: Path) -> None:
    with pytest.raises(ZeroDivisionError), taking(LocalOptions(cwd=str(folder)), home):
        _ = 1 / 0
    fd = os.open(home / ".code" / "lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)


def test_a_home_that_cannot_be_written_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputRefused, match="KATUNA_HOME"), taking(LocalOptions(cwd=str(folder)), tmp_path / "file" / "runs"):
        pass


# Of a run


def test_runs_data_volumes_and_secret_files_are_no_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KATUNA_HOME", str(folder / "kept"))
    for name in ("kept/notes.txt", "other/notes.txt", "data/train.csv", "volume/state.txt", "keys.txt", "mapped/a.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    local = LocalOptions(
        cwd=str(folder), data=str(folder / "data"), claims={"state": "volume"}, maps=(("/opt/app", str(folder.parent / "image")),)
    )
    (folder.parent / "image").mkdir()
    (folder.parent / "image" / "b.py").write_text("x")
    found = todays(local, folder / "other", [str(folder / "keys.txt")])
    assert set(found.files) == {"lib/part.py", "train.py", "mapped/a.py", f"{folder.parent}/image/b.py"}


def test_the_journal_says_which_code_is_in_force() -> None:
    opened = Opened(0, "toy", 1, "", {}, {}, "a" * 64)
    assert in_force([]) == ""
    assert in_force([Opened(0, "toy", 1, "", {}, {}, no_code="too large")]) == ""
    assert in_force([opened, Edited(1, {"maxTrialCount": 5})]) == "a" * 64
    assert in_force([opened, Edited(1, {}, "b" * 64), Asked(2, 0, "t", {}), Exited(3, 0, 0, "Completed")]) == "b" * 64


@pytest.mark.parametrize(
    "event",
    [
        Opened(0.5, "toy", 1, "", {}, {}, "a" * 64),
        Opened(0.5, "toy", 1, "", {}, {}, "", "too large"),
        Edited(1.5, {}, "b" * 64),
    ],
)
def test_events_with_code_are_journalled(event: Any) -> None:
    assert journal.decode(journal.encode(event)[:-1]) == event


def test_events_without_code_are_spelt_as_before() -> None:
    events = [Opened(0, "toy", 1, "", {}, {}), Edited(1, {})]
    assert not any(b"code" in journal.encode(event) for event in events)
    assert b'"code": 0' in journal.encode(Exited(3, 0, 0, "Completed"))


def test_a_code_is_plain_data(folder: Path) -> None:
    taken = collect([folder])
    assert isinstance(taken, Code)
    assert set(json.loads(listing(taken))) == {"format", "digest", "commit", "dirty", "roots"}
    assert code.digest_of(taken.roots) == taken.digest
