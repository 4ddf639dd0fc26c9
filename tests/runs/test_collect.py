"""Which files are code: real folders, real git."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from katuna.errors import CodeTooLarge
from katuna.runs import collect as module
from katuna.runs.collect import collect, git_state

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not here")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    made.mkdir()
    return made


def write(folder: Path, *names: str, text: str = "x = 1\n") -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def git(folder: Path, *words: str) -> str:
    argv = [
        "git",
        "-C",
        str(folder),
        "-c",
        "user.name=n",
        "-c",
        "user.email=n@example.com",
        "-c",
        "init.defaultBranch=main",
        *words,
    ]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def names(folder: Path, *leave_out: Path) -> list[str]:
    return sorted(collect([folder], leave_out).files)


def test_texts_are_taken_with_mode_size_and_time(folder: Path) -> None:
    write(folder, "train.py", "lib/part.py")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o744)
    os.utime(folder / "run.sh", ns=(5, 7_000_000_123))
    code = collect([folder])
    assert list(code.files) == ["lib/part.py", "run.sh", "train.py"]
    script = code.files["run.sh"]
    assert (script.mode, script.bytes, script.mtime_ns) == (0o755, 10, 7_000_000_123)
    assert code.files["train.py"].mode == 0o644
    assert code.contents[script.sha256] == b"#!/bin/sh\n"


def test_a_digest_is_of_paths_modes_and_contents_alone(folder: Path, tmp_path: Path) -> None:
    write(folder, "train.py", "lib/part.py")
    other = shutil.copytree(folder, tmp_path / "elsewhere")
    digest = collect([folder]).digest
    os.utime(other / "train.py", (1, 1))
    assert collect([other]).digest == digest
    assert collect([folder, other]).digest != digest
    (other / "train.py").chmod(0o755)
    assert collect([other]).digest != digest
    (other / "train.py").chmod(0o600)
    (other / "train.py").rename(other / "main.py")
    assert collect([other]).digest != digest


def test_what_is_no_code_is_left_out(folder: Path) -> None:
    left = ["__pycache__/a.txt", ".mypy_cache/a", "node_modules/a.js", "env/pyvenv.cfg", "env/lib/a.py", "out/toy/journal.jsonl"]
    left += [
        "out/toy/trials/log",
        "out/.code/0123",
        "out/.toy-01234567.new/job.yaml",
        "data/labels.csv",
        "weights.pt",
        "photo.PNG",
    ]
    write(folder, "train.py", "out/notes.txt", *left)
    (folder / "binary").write_bytes(b"MZ\0\1")
    (folder / "broken.txt").write_bytes(b"caf\xe9")
    (folder / "latin.py").write_bytes(b"# coding: latin-1\nname = 'caf\xe9'\n")
    (folder / "large.txt").write_text("x" * (module.LARGEST + 1))
    (folder / "just.txt").write_text("x" * (module.HEAD - 1) + "é" + "x")
    assert names(folder, folder / "data") == ["just.txt", "latin.py", "out/notes.txt", "train.py"]


def test_secrets_are_left_out(folder: Path) -> None:
    secret = [
        ".env",
        ".env.local",
        "tls/server.pem",
        "server.key",
        "id_rsa",
        ".netrc",
        ".npmrc",
        ".aws/config",
        "credentials.json",
    ]
    write(folder, "train.py", "environment.py", "keys.py", *secret)
    write(folder, "secret.yaml", text="apiVersion: v1\nkind: Secret\nstringData: {a: b}\n")
    write(folder, "list.json", text='{"items": [\n  {"kind": "Secret"}]}\n')
    write(folder, "store.yaml", text="kind: SecretStore\n")
    assert names(folder) == ["environment.py", "keys.py", "store.yaml", "train.py"]


def test_links_and_what_is_no_file_are_left_out(folder: Path, tmp_path: Path) -> None:
    write(folder, "train.py", "lib/part.py")
    write(tmp_path, "outside.py")
    (folder / "inside").symlink_to("lib")
    (folder / "again.py").symlink_to("train.py")
    (folder / "out.py").symlink_to(tmp_path / "outside.py")
    (folder / "loop").symlink_to(".")
    os.mkfifo(folder / "pipe")
    assert names(folder) == ["lib/part.py", "train.py"]


def test_a_folder_or_file_that_may_not_be_read_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, "train.py", "gone.py")
    read = module._read
    monkeypatch.setattr(module, "_read", lambda path: None if path.endswith("gone.py") else read(path))
    assert names(folder) == ["train.py"]
    assert names(folder / "nowhere") == []


def test_names_that_are_no_unicode_are_left_out(folder: Path) -> None:
    write(folder, "train.py", "ünï/a b\n.py")
    (Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.py"))).write_text("x")
    (Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9"))).mkdir()
    (Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9/a.py"))).write_text("x")
    assert names(folder) == ["train.py", "ünï/a b\n.py"]


def test_the_innermost_gitignore_decides(folder: Path) -> None:
    write(folder, ".gitignore", text="*.log\ndata/\n/local.py\n!data/keep.py\n\\!odd\n!\n")
    write(folder, "sub/.gitignore", text="\ufeffscratch*\r\n!kept.log\r\n")
    write(folder, "train.py", "a.log", "data/keep.py", "local.py", "sub/local.py", "sub/kept.log", "sub/b.log", "sub/scratch.py")
    assert names(folder) == [".gitignore", "sub/.gitignore", "sub/kept.log", "sub/local.py", "train.py"]


@needs_git
def test_what_is_ignored_is_what_git_ignores(folder: Path) -> None:
    git(folder, "init", "-q")
    write(folder, ".gitignore", text="*\n!*/\n!*.py\n!.gitignore\nbuild/\n/top.py\n!wanted.txt\n**/deep/x*.py\n")
    write(folder, "a/.gitignore", text="/own.py\nb/*\n!b/seen.py\n!b/c\n# none\n\\#odd.py\nspace.py   \n")
    write(
        folder, "a.txt", "top.py", "a/top.py", "a/own.py", "a/b/own.py", "a/b/seen.py", "a/b/c/x.py", "build/x.py", "a/build/y.py"
    )
    write(folder, "wanted.txt", "a/wanted.txt", "q/deep/xx.py", "q/deep/y.py", "q/deep/z/x1.py", "a/#odd.py", "a/space.py")
    listed = git(folder, "ls-files", "-co", "--exclude-standard", "-z").split("\0")
    assert names(folder) == sorted(filter(None, listed))
    assert len(names(folder)) > 8


@needs_git
def test_gitignores_above_count_up_to_the_top_of_the_repository(folder: Path, tmp_path: Path) -> None:
    write(tmp_path, ".gitignore", text="*.py\n")
    git(folder, "init", "-q")
    write(folder, ".gitignore", text="*.log\n/work/part/x.py\nout/\n")
    write(folder, "work/part/x.py", "work/part/y.py", "work/part/z.log", "out/train.py")
    assert names(folder / "work" / "part") == ["y.py"]
    assert names(folder / "out") == ["train.py"]


def test_too_many_files_name_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_FILES", 5)
    write(folder, "train.py", "lib/a.py", *(f"data/texts/{number}.txt" for number in range(9)))
    with pytest.raises(
        CodeTooLarge, match=r"more than 5 text files.* of them in \S+/project/data/texts; name that in a \.gitignore"
    ):
        collect([folder])
    write(folder, ".gitignore", text="data\n")
    assert names(folder) == [".gitignore", "lib/a.py", "train.py"]


def test_too_many_files_in_one_place_name_that(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_FILES", 20)
    write(folder, *(f"{number}.txt" for number in range(30)))
    with pytest.raises(CodeTooLarge, match=r"21 of them in \S+/project; name that"):
        collect([folder])


def test_too_many_bytes_name_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 1 << 20)
    monkeypatch.setattr(module, "LARGEST", 1 << 21)
    write(folder, "train.py", "lib/a.py")
    write(folder, "lib/large.csv", text="x" * (1 << 20))
    with pytest.raises(CodeTooLarge, match=r"more than 1 MiB.*1,048,576 bytes of them in \S+/lib/large\.csv;"):
        collect([folder])


def test_too_much_to_look_at_names_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ENTRIES", 20)
    write(folder, "train.py", *(f"images/{number}.png" for number in range(30)))
    with pytest.raises(CodeTooLarge, match=r"more than 20 files and folders to look at.*30 of them in \S+/images;"):
        collect([folder])


@pytest.mark.parametrize("weights", [{"/a": 9, "/b": 1}, {"/usr/lib": 1, "/usr/bin": 1, "/srv": 1}, {"/": 30, "/a": 1}])
def test_the_root_of_all_has_a_heaviest_part_too(weights: dict[str, int]) -> None:
    heaviest = {"/a": 9, "/usr": 2, "/": 31}
    place, weight = module._heaviest(["/"], weights)
    assert heaviest[place] == weight


def test_it_is_quick(folder: Path) -> None:
    write(folder, ".gitignore", text="*.log\n/build/\n")
    write(folder, *(f"part{number % 10}/module{number}.py" for number in range(200)), text="x = 1\n" * 500)
    took = []
    for _ in range(5):
        before = time.perf_counter()
        collect([folder])
        took.append(time.perf_counter() - before)
    # It is 10 ms; a machine may have other things to do.
    assert min(took) < 0.2


@needs_git
def test_git_says_which_commit_and_whether_the_tree_is_dirty(folder: Path) -> None:
    assert git_state(folder) == ("", None)
    git(folder, "init", "-q")
    assert git_state(folder) == ("", False)
    write(folder, "sub/train.py")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    commit = git(folder, "rev-parse", "HEAD").strip()
    write(folder, "runs/toy/journal.jsonl")
    assert git_state(folder / "sub", [folder / "runs"]) == (commit, False)
    assert git_state(folder) == (commit, True)
    write(folder, "sub/train.py", text="x = 2\n")
    assert git_state(folder / "sub", [folder / "runs"]) == (commit, True)


@needs_git
def test_what_is_edited_in_a_submodule_is_an_edit(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for each in (folder, other):
        each.mkdir(exist_ok=True)
        git(each, "init", "-q")
        write(each, "part.py")
        git(each, "add", "-A")
        git(each, "commit", "-qm", "first")
    git(folder, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(other), "lib")
    git(folder, "commit", "-qm", "second")
    assert git_state(folder)[1] is False
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o755)
    git(folder / "lib", "config", "core.fsmonitor", str(trap))
    write(folder, "lib/part.py", text="x = 2\n")
    assert git_state(folder)[1] is True
    assert not (tmp_path / "sprung").exists()


@needs_git
def test_git_writes_nothing_and_runs_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(folder, "init", "-q")
    write(folder, "train.py")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o755)
    git(folder, "config", "core.fsmonitor", str(trap))
    shutil.copy(trap, folder / ".git" / "hooks" / "post-index-change")
    os.utime(folder / "train.py", (1, 1))
    index = (folder / ".git" / "index").read_bytes()
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert git_state(folder)[1] is False
    assert (folder / ".git" / "index").read_bytes() == index
    assert not (tmp_path / "sprung").exists()


def test_without_git_nothing_is_known(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".git").mkdir()
    assert git_state(folder) == ("", None)
    monkeypatch.setenv("PATH", "/nowhere")
    assert git_state(folder) == ("", None)
