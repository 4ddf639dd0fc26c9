"""A folder mirrored for a trial: what is copied, linked and left out, what the trial changes, a trial that begins again, removal."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from katuna.errors import KatunaError, LaunchFailed
from katuna.launch import mirror as mirrors
from katuna.launch.mirror import SMALL_BYTES, Mirror, Stamp, TooMany, changed, check, mirror, read, settle, written
from katuna.launch.volumes import private_name
from katuna.trees import remove

NOBODY = 65534
AS_ANOTHER = """
import os, sys, pathlib
from katuna.launch.mirror import changed, mirror, written
from katuna.trees import remove
import encodings.ascii
os.setgroups([])
os.setgid({id})
os.setuid({id})
here = pathlib.Path(sys.argv[1])
"""

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder.resolve()


@pytest.fixture
def trial(tmp_path: Path) -> Path:
    folder = tmp_path / "trials" / "digits-1"
    folder.mkdir(parents=True)
    return folder.resolve()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten entries are the most, and thirty are counted at most."""
    monkeypatch.setattr(mirrors, "MOST_ENTRIES", 10)
    monkeypatch.setattr(mirrors, "COUNTED_AT_MOST", 30)


def write(path: Path, text: str = "text", *, size: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if size:
        os.truncate(path, size)
    return path


def made(root: Path, trial: Path, *, code: Path | None = None, leave_out: tuple[Path, ...] = ()) -> Mirror:
    return mirror(root, trial / "work", code=code, leave_out=leave_out, state=trial / "work.json")


@pytest.fixture
def his() -> Iterator[Path]:
    """A folder that another user can reach, which pytest's own is not; `as_nobody` makes it his."""
    folder = Path(tempfile.mkdtemp()).resolve()
    yield folder
    remove(folder)


def as_nobody(his: Path, program: str) -> str:
    """What the program prints when another user runs it; `here` is the folder."""
    for folder, folders, files in os.walk(his):
        for name in (".", *folders, *files):
            os.chown(Path(folder, name), NOBODY, NOBODY, follow_symlinks=False)
    command = [sys.executable, "-c", AS_ANOTHER.format(id=NOBODY) + program, str(his)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def led(link: Path) -> str:
    """Word for word, which `Path.readlink` does not tell."""
    return os.readlink(link)  # noqa: PTH115


# What is mirrored


def test_small_files_are_copies_with_mode_and_time(root: Path, trial: Path) -> None:
    file = write(root / "src" / "run.sh", "#!/bin/sh\n")
    file.chmod(0o4751)
    os.utime(file, ns=(1, 1_500_000_000_123_456_789))
    (root / "empty").mkdir(mode=0o750)
    os.utime(root / "src", ns=(1, 1_400_000_000_000_000_000))
    write(root / "src" / "nothing", "")
    found = made(root, trial)
    copy = trial / "work" / "src" / "run.sh"
    assert copy.read_text() == "#!/bin/sh\n"
    assert not copy.is_symlink()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o751, "what root copies is no program of root's for everybody"
    assert copy.stat().st_mtime_ns == 1_500_000_000_123_456_789
    assert found.copied["src/run.sh"] == Stamp(10, 1_500_000_000_123_456_789, copy.stat().st_ino)
    assert stat.S_IMODE((trial / "work" / "empty").stat().st_mode) == 0o750
    assert (trial / "work" / "src").stat().st_mtime_ns == (root / "src").stat().st_mtime_ns
    assert (trial / "work").stat().st_mtime_ns == root.stat().st_mtime_ns
    copy.write_text("changed")
    assert file.read_text() == "#!/bin/sh\n"


def test_a_folder_is_writable_in_the_mirror_whatever_its_mode(root: Path, trial: Path) -> None:
    write(root / "closed" / "file").parent.chmod(0o555)
    made(root, trial)
    assert stat.S_IMODE((trial / "work" / "closed").stat().st_mode) == 0o755
    (root / "closed").chmod(0o755)


def test_large_files_are_links_and_the_limit_is_a_mebibyte(root: Path, trial: Path) -> None:
    write(root / "data" / "at", size=SMALL_BYTES)
    large = write(root / "data" / "above", size=SMALL_BYTES + 1)
    found = made(root, trial)
    assert list(found.copied) == ["data/at"]
    link = trial / "work" / "data" / "above"
    assert link.readlink() == large
    assert found.linked == {"data/above": Stamp(SMALL_BYTES + 1, large.stat().st_mtime_ns, large.stat().st_ino)}


def test_a_sparse_file_of_a_terabyte_is_not_copied(root: Path, trial: Path) -> None:
    write(root / "sparse", size=1 << 40)
    assert list(made(root, trial).linked) == ["sparse"]
    assert (trial / "work" / "sparse").is_symlink()


def test_hard_links_become_files_of_their_own(root: Path, trial: Path) -> None:
    (root / "b").hardlink_to(write(root / "a"))
    made(root, trial)
    (trial / "work" / "a").write_text("changed")
    assert (trial / "work" / "b").read_text() == "text"
    assert (root / "a").read_text() == "text"


@pytest.mark.parametrize("text", ["../other.txt", "./../a/../other.txt", "missing", "../self", "../.venv/bin/python"])
def test_a_relative_link_within_the_folder_stays_as_it_is(root: Path, trial: Path, text: str) -> None:
    write(root / "other.txt")
    (root / "a").mkdir()
    (root / "self").symlink_to(".")
    (root / "a" / "link").symlink_to(text)
    found = made(root, trial)
    assert led(trial / "work" / "a" / "link") == text
    assert found.links["a/link"] == text
    assert written(found) == []


@pytest.mark.parametrize("text", ["../outside/x", "../project/inside", "a/../../outside/x"])
def test_a_link_that_leaves_the_folder_leads_to_the_same_place(root: Path, trial: Path, text: str) -> None:
    write(root.parent / "outside" / "x", "outside")
    write(root / "inside", "inside")
    (root / "a").mkdir()
    (root / "link").symlink_to(text)
    found = made(root, trial)
    assert (trial / "work" / "link").read_text() == (root / "link").read_text()
    assert led(trial / "work" / "link").startswith("/")
    assert written(found) == []


def test_an_absolute_link_stays_as_it_is(root: Path, trial: Path) -> None:
    (root / "link").symlink_to("/etc/hostname")
    (root / "loop").symlink_to("loop")
    made(root, trial)
    assert led(trial / "work" / "link") == "/etc/hostname"
    assert led(trial / "work" / "loop") == "loop"


def test_nothing_of_a_place_in_memory_is_copied(root: Path, trial: Path, tmp_path: Path) -> None:
    place = private_name(tmp_path)
    write(root / place / "keys" / "token", "s3cr3t")
    assert sorted(made(root, trial).whole) == [place]
    assert (trial / "work" / place).is_symlink()


def test_what_is_large_and_not_the_users_own_is_linked_as_a_whole(root: Path, trial: Path) -> None:
    write(root / "env" / "pyvenv.cfg")
    for name in (".git/objects", "lib/.git/modules/a/b/objects", "web/node_modules"):
        write(root / name / "deep" / "file")
    write(root / "src" / "__pycache__" / "x.pyc")
    found = made(root, trial)
    assert sorted(found.whole) == [".git/objects", "env", "lib/.git/modules/a/b/objects", "web/node_modules"]
    assert (trial / "work" / "env").readlink() == root / "env"
    assert not (trial / "work" / "src" / "__pycache__").exists()
    assert found.copied == {}
    assert written(found) == []


def test_a_file_called_git_and_a_link_to_an_environment_are_what_they_are(root: Path, trial: Path) -> None:
    write(root / ".git", "gitdir: /elsewhere")
    write(root.parent / "env" / "pyvenv.cfg")
    (root / ".venv").symlink_to("../env")
    found = made(root, trial)
    assert list(found.copied) == [".git"]
    assert (trial / "work" / ".venv").resolve() == root.parent / "env"


def test_an_environment_itself_can_be_the_folder(root: Path, trial: Path) -> None:
    write(root / "pyvenv.cfg")
    assert list(made(root, trial).copied) == ["pyvenv.cfg"]


def test_special_files_are_left_out(root: Path, trial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(root / "pipe")
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket")
    made(root, trial)
    assert names(trial / "work") == []


def test_what_is_to_be_left_out_is_and_the_mirror_is_not_in_itself(root: Path) -> None:
    trial = root / "runs" / "digits" / "trials" / "digits-1"
    trial.mkdir(parents=True)
    write(root / "train.py")
    (root.parent / "big-disk").mkdir()
    (root / "elsewhere").symlink_to(root.parent / "big-disk")
    write(root / "store" / "x")
    (root / "stored").symlink_to("store")
    (root / "latest").symlink_to("runs/digits")
    made(root, trial, leave_out=(root / "runs", root / "elsewhere", root / "stored"))
    assert names(trial / "work") == ["latest", "train.py"]
    remove(trial / "work")
    (trial / "work.json").unlink()
    found = made(root, trial)
    assert not [path for path in found.folders if path.startswith("runs/digits/trials/digits-1/work")]


def test_a_folder_reached_through_a_link_is_mirrored_and_left_out_the_same(root: Path, trial: Path) -> None:
    write(root / "train.py")
    write(root / "runs" / "x")
    link = root.parent / "link"
    link.symlink_to(root)
    found = made(link, trial, leave_out=(link / "runs",))
    assert found.root == root
    assert list(found.copied) == ["train.py"]


def test_names_that_are_not_utf8_are_kept_and_remembered(root: Path, trial: Path) -> None:
    name = os.fsdecode(b"caf\xe9\xff \n\x01")
    write(root / name / name)
    write(root / f"{name}-large", size=SMALL_BYTES + 1)
    (root / "link").symlink_to(name)
    found = made(root, trial)
    assert (trial / "work" / name / name).read_text() == "text"
    assert Mirror.from_json(json.loads((trial / "work.json").read_bytes())) == found
    (root / f"{name}-large").write_bytes(b"x")
    assert changed(found) == [f"{name}-large"]
    assert made(root, trial) == found
    remove(trial / "work")
    assert not (trial / "work").exists()


def test_the_mirror_travels_as_json(root: Path, trial: Path) -> None:
    write(root / "a" / "b")
    write(root / "node_modules" / "x")
    (root / "link").symlink_to("a")
    found = made(root, trial)
    assert Mirror.from_json(json.loads(json.dumps(found.as_json()))) == found


# The snapshot of code


def test_code_comes_from_the_snapshot(root: Path, trial: Path, tmp_path: Path) -> None:
    write(root / "train.py", "edited since")
    write(root / "lib" / "data.txt", "data")
    write(root / "gone" / "now" / "deep", "a folder since")
    code = tmp_path / "code"
    for path in ("train.py", "lib/model.py", "pkg/removed/since.py", "gone"):
        write(code / path, "as it was")
    (code / "train.py").chmod(0o755)
    os.utime(code / "train.py", ns=(1, 1_500_000_000_000_000_000))
    (code / "big.py").write_bytes(bytes(SMALL_BYTES + 1))
    found = made(root, trial, code=code)
    work = trial / "work"
    for path in ("train.py", "lib/model.py", "pkg/removed/since.py", "gone"):
        assert (work / path).read_text() == "as it was"
    assert (work / "lib" / "data.txt").read_text() == "data"
    assert stat.S_IMODE((work / "train.py").stat().st_mode) == 0o755
    assert (work / "train.py").stat().st_mtime_ns == 1_500_000_000_000_000_000
    assert not (work / "big.py").is_symlink()
    assert written(found) == []


def test_code_does_not_get_into_a_users_folder_through_a_link(root: Path, trial: Path, tmp_path: Path) -> None:
    write(root / "env" / "pyvenv.cfg")
    write(root / "src" / "a.py", "edited")
    (root / "lib").symlink_to("src")
    (root / "far").symlink_to(tmp_path / "far")
    write(tmp_path / "far" / "b.py", "edited")
    code = tmp_path / "code"
    for path in ("env/deep/x.py", "lib/a.py", "src/a.py", "far/b.py"):
        write(code / path, "as it was")
    made(root, trial, code=code)
    work = trial / "work"
    assert (work / "env").is_symlink()
    assert not (root / "env" / "deep").exists()
    assert led(work / "lib") == "src"
    assert (work / "lib" / "a.py").read_text() == "as it was"
    assert (work / "far" / "b.py").read_text() == "as it was"
    assert (root / "src" / "a.py").read_text() == (tmp_path / "far" / "b.py").read_text() == "edited"


# Limits


@pytest.mark.usefixtures("few")
def test_too_many_files_are_refused_and_the_folder_that_has_most_is_named(root: Path, trial: Path) -> None:
    write(root / "src" / "a.py")
    for number in range(12):
        write(root / "data" / "train" / f"class-{number % 4}" / str(number))
    with pytest.raises(TooMany, match=r"has 21 files and folders, 16 of them in .*/data/train; .* 10$") as caught:
        made(root, trial)
    assert isinstance(caught.value, KatunaError)
    assert (caught.value.folder, caught.value.count) == (root / "data" / "train", 16)
    assert names(trial) == []


@pytest.mark.usefixtures("few")
def test_the_scan_ends_early_and_says_so(root: Path, trial: Path) -> None:
    for number in range(200):
        write(root / "data" / str(number % 20) / str(number))
    with pytest.raises(TooMany, match=r"at least 3\d files and folders, \d\d of them in .*/data"):
        made(root, trial)


@pytest.mark.usefixtures("few")
def test_many_files_in_the_folder_itself_are_said_to_be_there(root: Path, trial: Path) -> None:
    for number in range(11):
        write(root / f"\x1b{number}")
    write(root / "a" / "b")
    with pytest.raises(TooMany, match=rf"in {root};") as caught:
        made(root, trial)
    assert caught.value.folder == root


@pytest.mark.usefixtures("few")
def test_as_many_files_as_there_may_be_are_mirrored(root: Path, trial: Path) -> None:
    for number in range(9):
        write(root / str(number))
    assert len(made(root, trial).copied) == 9
    write(root / "one more")
    with pytest.raises(TooMany):
        check([root], [])


@pytest.mark.usefixtures("few")
def test_what_is_linked_as_a_whole_or_left_out_does_not_count(root: Path, trial: Path) -> None:
    for number in range(20):
        write(root / "node_modules" / str(number))
        write(root / "runs" / str(number))
    assert made(root, trial, leave_out=(root / "runs",)).whole == ("node_modules",)


def test_too_many_bytes_are_refused(root: Path, trial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "MOST_BYTES", 1000)
    for number in range(11):
        write(root / "images" / str(number), size=100)
    write(root / "large", size=SMALL_BYTES + 1)
    with pytest.raises(TooMany, match=r"1,100 bytes in small files, 1,100 of them in .*/images; .* 1,000") as caught:
        made(root, trial)
    assert caught.value.folder == root / "images"
    (root / "images" / "0").unlink()
    assert len(made(root, trial).copied) == 10


def test_a_path_that_is_too_long_for_a_mirror_is_refused(root: Path, trial: Path) -> None:
    here = os.open(root, os.O_RDONLY)
    for _ in range(50):
        os.mkdir("d" * 100, dir_fd=here)
        inner = os.open("d" * 100, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    with pytest.raises(TooMany, match="is too deep: a path of") as caught:
        made(root, trial)
    assert caught.value.folder == root / ("d" * 100)
    remove(root)
    assert not root.exists()


def test_a_deep_tree_is_mirrored(root: Path, trial: Path, request: pytest.FixtureRequest) -> None:
    deep = "d/" * 1200
    for depth in range(2, len(deep) + 1, 2):
        (root / deep[:depth]).mkdir()
    write(root / deep / "file")
    for folder in (root, trial):
        request.addfinalizer(partial(remove, folder))
    found = made(root, trial)
    assert (trial / "work" / deep / "file").read_text() == "text"
    assert written(found) == []
    remove(trial / "work")
    assert not (trial / "work").exists()


# Reflinks


def by_copy(source: int, target: int) -> bool:
    """As FICLONE does where the file system can."""
    os.sendfile(target, source, 0, os.fstat(source).st_size)
    return True


def test_where_copies_cost_nothing_large_files_are_copied_too(root: Path, trial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "MOST_BYTES", 1)
    monkeypatch.setattr(mirrors, "_clone", by_copy)
    write(root / "small")
    write(root / "large", size=2 * SMALL_BYTES).chmod(0o640)
    found = made(root, trial)
    assert sorted(found.copied) == ["large", "small"]
    assert (trial / "work" / "large").read_bytes() == (root / "large").read_bytes()
    assert stat.S_IMODE((trial / "work" / "large").stat().st_mode) == 0o640


def test_a_file_that_cannot_be_cloned_though_others_can_is_copied_or_linked(
    root: Path, trial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([True])
    monkeypatch.setattr(mirrors, "_clone", lambda _source, _target: next(answers, False))
    write(root / "small")
    write(root / "large", size=2 * SMALL_BYTES)
    found = made(root, trial)
    assert list(found.copied) == ["small"]
    assert (trial / "work" / "small").read_text() == "text"
    assert list(found.linked) == ["large"]
    assert (trial / "work" / "large").is_symlink()


@pytest.fixture
def cloning_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that has reflinks."""
    image, disk = tmp_path / "image", tmp_path / "disk"
    disk.mkdir()
    write(image, size=320 << 20)
    maker = next(filter(None, map(shutil.which, ("mkfs.btrfs", "mkfs.xfs"))), None)
    if maker is None or subprocess.run([maker, str(image)], capture_output=True, check=False).returncode:
        pytest.skip("no file system with reflinks can be made here: mkfs.btrfs and mkfs.xfs are missing or fail")
    command = ["mount", "-o", "loop", str(image), str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield disk.resolve()
    subprocess.run(["umount", str(disk)], check=True)  # noqa: S607


def test_reflinks(cloning_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "MOST_BYTES", 1)
    root, trial = cloning_disk / "project", cloning_disk / "trial"
    trial.mkdir()
    write(root / "small")
    (root / "large").write_bytes(os.urandom(4 << 20))
    free = shutil.disk_usage(cloning_disk).free
    for number in range(100):
        (trial / str(number)).mkdir()
        found = made(root, trial / str(number))
        assert sorted(found.copied) == ["large", "small"]
        assert (trial / str(number) / "work" / "large").read_bytes() == (root / "large").read_bytes()
    os.sync()
    assert free - shutil.disk_usage(cloning_disk).free < 100 << 20


# What the user may not read, and what goes away meanwhile


@only_root
def test_what_may_not_be_read_is_linked(his: Path) -> None:
    root = his / "project"
    write(root / "secret").chmod(0o000)
    write(root / "private" / "x").parent.chmod(0o000)
    write(root / "names-only" / "y").parent.chmod(0o444)
    write(root / "open")
    (his / "trial").mkdir()
    program = """
trial = here / "trial"
found = mirror(here / "project", trial / "work", code=None, leave_out=(), state=trial / "work.json")
print(list(found.copied), list(found.linked), sorted(found.whole), changed(found), written(found))
try:
    (trial / "work" / "secret").read_text()
except PermissionError:
    print("refused")
remove(trial / "work")
print((trial / "work").exists())
"""
    told = as_nobody(his, program).splitlines()
    assert told == ["['open'] ['secret'] ['names-only/y', 'private'] [] []", "refused", "False"]
    assert (root / "private" / "x").read_text() == "text"


@only_root
def test_a_folder_that_may_not_be_listed_is_no_empty_mirror(his: Path) -> None:
    (his / "project").mkdir(mode=0o311)
    (his / "trial").mkdir()
    program = """
try:
    mirror(here / "project", here / "trial" / "work", code=None, leave_out=(), state=here / "work.json")
except Exception as error:
    print(type(error).__name__, error)
"""
    assert "LaunchFailed" in as_nobody(his, program)


@pytest.mark.parametrize("becomes", ["nothing", "folder", "other parent"])
def test_a_file_that_vanishes_meanwhile_is_left_out(
    root: Path, trial: Path, monkeypatch: pytest.MonkeyPatch, becomes: str
) -> None:
    write(root / "a" / "vanishing")
    write(root / "b")
    original = mirrors._check

    def meanwhile(*arguments: object) -> None:
        shutil.rmtree(root / "a")
        if becomes == "folder":
            (root / "a" / "vanishing").mkdir(parents=True)
        elif becomes == "other parent":
            write(root / "a")
        original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(mirrors, "_check", meanwhile)
    found = made(root, trial)
    assert list(found.copied) == ["b"]
    assert names(trial / "work" / "a") == []


def test_what_vanishes_while_it_is_listed_is_left_out(root: Path, trial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root / "file")
    write(root / "folder" / "x")
    (root / "link").symlink_to("file")
    listed = mirrors._listed

    def then_removed(folder: str, most: int | None = None) -> object:
        found = listed(folder, most)
        if folder == str(root):
            (root / "file").unlink()
            (root / "link").unlink()
            shutil.rmtree(root / "folder")
        return found

    monkeypatch.setattr(mirrors, "_listed", then_removed)
    found = made(root, trial)
    assert (found.copied, found.links, found.whole) == ({}, {}, ())


# What a trial changes


def test_writes_through_a_link_are_found(root: Path, trial: Path) -> None:
    for name in ("written", "touched", "replaced", "removed", "left"):
        write(root / "data" / name, size=SMALL_BYTES + 1)
    found = made(root, trial)
    assert changed(found) == []
    work = trial / "work" / "data"
    with (work / "written").open("ab") as file:
        file.write(b"x")
    os.utime(work / "touched", ns=(1, 1))
    kept = (root / "data" / "replaced").stat()
    write(root / "new", size=SMALL_BYTES + 1).replace(root / "data" / "replaced")
    os.utime(root / "data" / "replaced", ns=(kept.st_atime_ns, kept.st_mtime_ns))
    (root / "data" / "removed").unlink()
    assert changed(found) == ["data/removed", "data/replaced", "data/touched", "data/written"]


def test_writes_into_a_folder_that_is_linked_as_a_whole_are_found(root: Path, trial: Path) -> None:
    for name in ("env/pyvenv.cfg", "env/lib/a.py", "env/lib/b.py", "node_modules/x", ".git/objects/00/x", ".git/index"):
        write(root / name, size=SMALL_BYTES + 1)
        os.utime(root / name, ns=(1, 1))
    found = made(root, trial)
    write(root / ".git" / "objects" / "00" / "y")
    write(root / ".git" / "index")
    write(trial / "work" / "env" / "lib" / "__pycache__" / "a.pyc")
    assert changed(found) == []
    write(trial / "work" / "env" / "lib" / "a.py")
    write(trial / "work" / "node_modules" / "y")
    assert changed(read(trial / "work.json")) == ["env/lib/a.py", "node_modules/y"]


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not here")
def test_a_commit_in_the_mirror_is_none_in_the_users_repository(root: Path, trial: Path) -> None:
    def git(folder: Path, *words: str) -> str:
        who = ("-c", "user.name=n", "-c", "user.email=n@example.com")
        return subprocess.run(["git", "-C", folder, *who, *words], check=True, capture_output=True, text=True).stdout  # noqa: S607

    git(root, "init", "-q")
    write(root / "train.py")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    found, work = made(root, trial), trial / "work"
    assert git(work, "rev-parse", "HEAD") == git(root, "rev-parse", "HEAD")
    assert git(work, "status", "--porcelain") == ""
    write(work / "train.py", "edited")
    git(work, "commit", "-qam", "second")
    git(work, "tag", "trial")
    git(work, "gc", "-q", "--prune=now")
    assert len(git(work, "log", "--oneline").splitlines()) == 2
    assert len(git(root, "log", "--oneline").splitlines()) == 1
    assert (git(root, "tag"), git(root, "status", "--porcelain")) == ("", "")
    assert changed(found) == []


def test_what_a_trial_left_is_what_is_new_or_differs(root: Path, trial: Path) -> None:
    for name in ("kept.py", "edited.py", "removed.py", "same-size", "replaced"):
        write(root / name)
    for name in ("large", "own-large"):
        write(root / name, size=SMALL_BYTES + 1)
    write(root / ".git" / "x")
    (root / "link").symlink_to("kept.py")
    (root / "relinked").symlink_to("kept.py")
    found = made(root, trial)
    assert written(found) == []
    work = trial / "work"
    write(work / "edited.py", "edited")
    (work / "removed.py").unlink()
    write(work / "same-size", "TEXT")
    kept = (work / "replaced").stat()
    write(work / "fresh").replace(work / "replaced")
    os.utime(work / "replaced", ns=(kept.st_atime_ns, kept.st_mtime_ns))
    (work / "own-large").unlink()
    write(work / "own-large", "own")
    (work / "relinked").unlink()
    (work / "relinked").symlink_to("edited.py")
    write(work / "out" / "deep" / "model.pt", size=5000)
    write(work / "__pycache__" / "kept.pyc")
    (work / "out" / "empty").mkdir()
    os.mkfifo(work / "pipe")
    expected = [
        ("edited.py", 6),
        ("out/deep/model.pt", 5000),
        ("own-large", 3),
        ("relinked", 9),
        ("replaced", 4),
        ("same-size", 4),
    ]
    assert written(found) == expected


def test_results_behind_a_folder_that_the_trial_linked_are_not_looked_for(root: Path, trial: Path, tmp_path: Path) -> None:
    found = made(root, trial)
    write(tmp_path / "far" / "x")
    (trial / "work" / "far").symlink_to(tmp_path / "far")
    assert [path for path, _ in written(found)] == ["far"]


def test_what_was_put_there_and_stayed_so_is_taken_out_at_the_end(root: Path, trial: Path) -> None:
    for path in ("kept", "edited", "a/b/kept", "out/kept"):
        write(root / path)
    write(root / "large", size=SMALL_BYTES + 1)
    write(root / ".git" / "x")
    made(root, trial)
    work = trial / "work"
    write(work / "edited", "by the trial")
    write(work / "out" / "own")
    write(work / "out" / "__pycache__" / "x.pyc")
    settle(read(trial / "work.json"))
    assert sorted(str(path.relative_to(work)) for path in work.rglob("*")) == ["edited", "out", "out/own"]
    assert (root / "large").exists()
    assert (root / ".git" / "x").exists()
    with pytest.raises(LaunchFailed, match="is gone"):
        read(trial / "missing.json")


@pytest.mark.usefixtures("few")
def test_a_check_says_the_same_and_makes_nothing(root: Path) -> None:
    check([root], [])
    for number in range(11):
        write(root / "data" / str(number))
    with pytest.raises(TooMany, match=r"11 of them in .*/data"):
        check([root], [])
    check([root], [root / "data"])
    assert names(root) == ["data"]


# A trial that begins again


def test_a_trial_that_begins_again_finds_its_tree_as_it_left_it(root: Path, trial: Path) -> None:
    for path in ("kept", "edited", "removed", "folder/a", "gone/a", "now-a-file/a"):
        write(root / path, "old")
    write(root / "large", size=SMALL_BYTES + 1)
    (root / "link").symlink_to("kept")
    first = made(root, trial)
    work = trial / "work"
    write(work / "edited", "by the trial")
    write(work / "checkpoint", "by the trial")
    for name in ("removed", "link", "large"):
        (work / name).unlink()
    for name in ("gone", "now-a-file"):
        shutil.rmtree(work / name)
    write(work / "now-a-file", "by the trial")
    for path in ("kept", "edited", "checkpoint", "new", "folder/new", "gone/new", "now-a-file/new", "more/new"):
        write(root / path, "new")
    write(root / "new-large", size=SMALL_BYTES + 1)
    second = made(root, trial)
    files = {
        str(path.relative_to(work)): path.read_text() for path in work.rglob("*") if path.is_file() and not path.is_symlink()
    }
    assert files == {
        "kept": "old",
        "edited": "by the trial",
        "checkpoint": "by the trial",
        "now-a-file": "by the trial",
        "folder/a": "old",
        "folder/new": "new",
        "new": "new",
        "more/new": "new",
    }
    assert (work / "new-large").is_symlink()
    assert not os.path.lexists(work / "large")
    assert not os.path.lexists(work / "link")
    assert dict(second.copied).items() > dict(first.copied).items()
    assert set(second.copied) - set(first.copied) == {"new", "folder/new", "more/new"}
    assert [path for path, _ in written(second)] == ["checkpoint", "edited", "now-a-file"]
    assert made(root, trial) == second


def test_nothing_new_goes_where_a_trial_has_put_a_link(root: Path, trial: Path, tmp_path: Path) -> None:
    write(root / "a" / "b" / "x")
    made(root, trial)
    shutil.rmtree(trial / "work" / "a")
    (tmp_path / "far" / "b").mkdir(parents=True)
    (trial / "work" / "a").symlink_to(tmp_path / "far")
    write(root / "a" / "b" / "new")
    made(root, trial)
    assert names(tmp_path / "far" / "b") == []


def test_a_mirror_that_was_not_finished_is_made_anew(root: Path, trial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root / "a")
    with monkeypatch.context() as patch:
        patch.setattr(mirrors, "_save", crash)
        with pytest.raises(KeyboardInterrupt):
            made(root, trial)
    write(trial / "work" / "a", "half")
    write(trial / "work" / "left")
    found = made(root, trial)
    assert names(trial / "work") == ["a"]
    assert (trial / "work" / "a").read_text() == "text"
    assert written(found) == []


def test_half_of_what_was_new_is_made_anew(root: Path, trial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root / "a")
    made(root, trial)
    write(trial / "work" / "own")
    write(root / "new" / "file", "whole")
    with monkeypatch.context() as patch:
        patch.setattr(mirrors, "_copy", crash)
        with pytest.raises(KeyboardInterrupt):
            made(root, trial)
    write(trial / "work" / "new" / "file", "ha")
    found = made(root, trial)
    assert (trial / "work" / "new" / "file").read_text() == "whole"
    assert found.unfinished == ()
    assert [path for path, _ in written(found)] == ["own"]


def crash(*_arguments: object, **_named: object) -> None:
    raise KeyboardInterrupt


def test_a_working_folder_that_is_gone_is_made_anew(root: Path, trial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root / "a")
    made(root, trial)
    remove(trial / "work")
    with monkeypatch.context() as patch:
        patch.setattr(mirrors, "_copy", crash)
        with pytest.raises(KeyboardInterrupt):
            made(root, trial)
    assert list(made(root, trial).copied) == ["a"]
    assert (trial / "work" / "a").exists()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"root": 1}', "\x00"])
def test_a_damaged_state_file_is_named_and_nothing_is_removed(root: Path, trial: Path, text: str) -> None:
    made(root, trial)
    write(trial / "work" / "checkpoint")
    write(trial / "work.json", text)
    with pytest.raises(LaunchFailed, match=r"work\.json is not as katuna wrote it"):
        made(root, trial)
    assert (trial / "work" / "checkpoint").exists()


# Removal


def closed_tree(top: Path) -> Path:
    write(top / "a" / "b" / "c")
    write(top / "read-only" / "x").chmod(0o000)
    (top / "read-only").chmod(0o500)
    (top / "a" / "b").chmod(0o000)
    (top / "a").chmod(0o000)
    top.chmod(0o400)
    return top


def test_a_tree_is_removed_and_what_its_links_lead_to_is_not(tmp_path: Path) -> None:
    kept = write(tmp_path / "kept" / "file")
    top = tmp_path / "tree"
    for number, target in enumerate([kept, kept.parent, Path("missing"), Path("..")]):
        write(top / "x")
        (top / f"link-{number}").symlink_to(target)
    mode = kept.parent.stat().st_mode
    os.mkfifo(top / "pipe")
    (top / "large").hardlink_to(kept)
    remove(closed_tree(top))
    assert not top.exists()
    assert kept.read_text() == "text"
    assert kept.parent.stat().st_mode == mode


@only_root
def test_another_user_removes_closed_folders_of_his_own(his: Path) -> None:
    closed_tree(his / "tree")
    control = 'import shutil\nshutil.rmtree(here / "tree", ignore_errors=True)\nprint((here / "tree").exists())\n'
    told = as_nobody(his, control + 'remove(here / "tree")\nprint((here / "tree").exists())')
    assert told.split() == ["True", "False"]


@only_root
def test_another_user_removes_what_is_closed_and_deep(his: Path) -> None:
    (his / "tree").mkdir()
    program = """
names = ["d" * 200] * 60
at = os.open(here / "tree", os.O_RDONLY)
opened = []
for name in names:
    os.mkdir(name, dir_fd=at)
    opened.append(at)
    at = os.open(name, os.O_RDONLY, dir_fd=at)
os.close(os.open("file", os.O_CREAT, dir_fd=at))
for folder, name in zip(reversed(opened), names):
    os.chmod(name, 0, dir_fd=folder)
remove(here / "tree")
print((here / "tree").exists())
"""
    assert as_nobody(his, program).split() == ["False"]


def test_what_is_gone_or_no_folder_is_no_trouble(tmp_path: Path) -> None:
    remove(tmp_path / "missing")
    remove(write(tmp_path / "file"))
    kept = write(tmp_path / "kept" / "file")
    (tmp_path / "link").symlink_to(kept.parent)
    remove(tmp_path / "link")
    assert names(tmp_path) == ["kept"]
    assert kept.exists()


def test_what_cannot_be_removed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "tree" / "file")
    original: Callable[..., None] = Path.unlink

    def refused(path: Path, *arguments: object, **named: object) -> None:
        if path.name == "file":
            raise PermissionError(path)
        original(path, *arguments, **named)

    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(PermissionError):
        remove(tmp_path / "tree")
