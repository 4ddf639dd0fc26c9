"""The code of a run as plain data: a list of files in the run folder, and their contents, which all runs of one home share.

runs/.code/SHA256           what a file held, once for all runs
runs/.code/lock             shared by whoever makes a run, exclusive for whoever removes contents
runs/NAME/code/DIGEST.json  a list of files; one for each code that the run has used
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from katuna.errors import InputRefused, StoreFailed
from katuna.runs.journal import sync_folder
from katuna.runs.rundir import CONTENTS, RunDir

FORMAT = 1
MODES = (0o644, 0o755)

_DIGEST = re.compile(r"[0-9a-f]{64}")
_DIGESTS = re.compile(rb"[0-9a-f]{64}")


@dataclass(frozen=True)
class CodeFile:
    """`path` is relative to its root, with slashes; `mode` 0o644, or 0o755 for what may be executed. `mtime_ns` keeps compiled files
    valid and is no part of a digest."""

    path: str
    mode: int
    bytes: int
    sha256: str
    mtime_ns: int


@dataclass(frozen=True)
class CodeRoot:
    """`path` is the absolute folder in which the files lay when they were taken; the files are in the order of their paths."""

    path: str
    files: tuple[CodeFile, ...]


@dataclass(frozen=True)
class Code:
    """`digest` is of the files' paths, modes and contents, root after root, wherever the roots lie.

    `commit` is the git commit of the first root, "" outside of git. `dirty` says whether the tree differed from the commit,
    None where that is unknown.
    `contents` has what the files held, by sha256, in a code that was just collected; `content` reads what a run has kept.
    """

    roots: tuple[CodeRoot, ...]
    digest: str
    commit: str = ""
    dirty: bool | None = None
    contents: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}), compare=False, repr=False)

    @cached_property
    def files(self) -> Mapping[str, CodeFile]:
        """By the name that people are told: the path in the first root, the absolute path in any other."""
        return {
            each.path if number == 0 else f"{root.path}/{each.path}": each
            for number, root in enumerate(self.roots)
            for each in root.files
        }

    @cached_property
    def paths(self) -> frozenset[str]:
        """Where the files lay, absolute."""
        return frozenset(f"{root.path}/{each.path}" for root in self.roots for each in root.files)


@dataclass(frozen=True)
class Difference:
    """`path` is a name of `Code.files`."""

    path: str
    what: Literal["changed", "added", "removed"]


def digest_of(roots: Sequence[CodeRoot]) -> str:
    whole = hashlib.sha256()
    for root in roots:
        lines = (f"{each.path}\0{each.mode:o}\0{each.sha256}\0" for each in root.files)
        whole.update(hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).digest())
    return whole.hexdigest()


def differences(old: Code, new: Code) -> list[Difference]:
    """In the order of the names."""
    before, after = old.files, new.files
    found = []
    for name in sorted({*before, *after}):
        if name not in after:
            found.append(Difference(name, "removed"))
        elif name not in before:
            found.append(Difference(name, "added"))
        elif (before[name].sha256, before[name].mode) != (after[name].sha256, after[name].mode):
            found.append(Difference(name, "changed"))
    return found


# The list


def as_json(code: Code) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "digest": code.digest,
        "commit": code.commit,
        "dirty": code.dirty,
        "roots": [
            {
                "path": root.path,
                "files": [
                    {"path": each.path, "mode": each.mode, "bytes": each.bytes, "sha256": each.sha256, "mtimeNs": each.mtime_ns}
                    for each in root.files
                ],
            }
            for root in code.roots
        ],
    }


def listing(code: Code) -> bytes:
    """The list as its file holds it: the same code gives the same bytes."""
    return json.dumps(as_json(code), sort_keys=True, separators=(",", ":")).encode() + b"\n"


def read(run: RunDir, digest: str) -> Code:
    """A code that the run has used. Raises InputRefused where its list is gone or is not what katuna wrote."""
    path = run.code(digest)
    try:
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"{digest!r} is no digest")
        code = _from_json(json.loads(path.read_bytes()))
        if code.digest != digest:
            raise ValueError("the digest does not match")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else f"not a list of files as katuna writes it ({error})"
        raise InputRefused(f"{path}: {why}; {_instead(run)}") from error
    return code


def _from_json(plain: Mapping[str, Any]) -> Code:
    """Raises ValueError, KeyError or TypeError for what is no list of this version, or leads out of its roots."""
    if plain["format"] != FORMAT:
        raise ValueError(f"format {plain['format']!r} where this katuna reads {FORMAT}")
    roots = tuple(CodeRoot(str(root["path"]), tuple(map(_file, root["files"]))) for root in plain["roots"])
    for root in roots:
        paths = [each.path for each in root.files]
        if paths != sorted(set(paths)):
            raise ValueError("files out of order")
    return Code(roots, digest_of(roots), str(plain["commit"]), plain["dirty"])


def _file(plain: Mapping[str, Any]) -> CodeFile:
    file = CodeFile(plain["path"], plain["mode"], plain["bytes"], plain["sha256"], plain["mtimeNs"])
    if any(type(number) is not int for number in (file.bytes, file.mtime_ns)) or file.mode not in MODES:
        raise ValueError(f"{file.path!r}: its size, mode or time is none")
    if not _DIGEST.fullmatch(file.sha256):
        raise ValueError(f"{file.path!r}: {file.sha256!r} is no digest")
    if "\0" in file.path or any(part in ("", ".", "..") for part in file.path.split("/")):
        raise ValueError(f"{file.path!r} is no path below its root")
    return file


def _instead(run: RunDir) -> str:
    return f"put back what was there, or go on with today's files: `katuna resume {run.handle} --code new`"


# The contents


@contextlib.contextmanager
def sharing(home: Path, *, alone: bool = False) -> Iterator[Path]:
    """Gives the folder of the contents; meanwhile nobody removes any, or, `alone`, nobody else adds any. Raises OSError."""
    place = home / CONTENTS
    home.mkdir(parents=True, exist_ok=True)
    place.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield place
    finally:
        os.close(fd)


def put(code: Code, place: Path) -> None:
    """Has the contents of a collected code on disk in `place`, which `sharing` gave. Raises OSError."""
    from concurrent.futures import ThreadPoolExecutor

    missing = [sha256 for sha256, content in code.contents.items() if not _holds(place / sha256, content)]
    if missing:
        # A disk takes what several ask of it at a time together, and one after the other slowly.
        with ThreadPoolExecutor(min(16, len(missing))) as pool:
            try:
                list(pool.map(lambda sha256: _write(place / sha256, code.contents[sha256]), missing))
            except RuntimeError:
                # No thread more can be started: a limit of processes counts them too.
                for sha256 in missing:
                    _write(place / sha256, code.contents[sha256])
        sync_folder(place)


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.stat().st_size == len(content) and path.read_bytes() == content
    except FileNotFoundError:
        return False


def _write(path: Path, content: bytes) -> None:
    """On disk under its name with all of its content, or not at all."""
    fresh = path.with_name(f".{path.name}-{secrets.token_hex(4)}.new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def keep(code: Code, run: RunDir) -> None:
    """Has a collected code on disk, for a run that is there already. Raises StoreFailed."""
    path = run.code(code.digest)
    try:
        with sharing(run.path.parent) as place:
            put(code, place)
            path.parent.mkdir(exist_ok=True)
            _write(path, listing(code))
            sync_folder(path.parent)
            sync_folder(run.path)
    except OSError as error:
        raise StoreFailed.of(error.filename or path, error, run.name) from error


def content(run: RunDir, file: CodeFile) -> bytes:
    """What a file held. Raises InputRefused where that is kept no more, or is not what it was."""
    path = run.path.parent / CONTENTS / file.sha256
    try:
        with path.open("rb") as kept:
            found = kept.read(file.bytes + 1)
    except OSError as error:
        raise InputRefused(
            f"{file.path}: what it held is kept no more ({path}: {error.strerror}). A run that is copied needs the folder {CONTENTS} "
            f"beside it: {_instead(run)}"
        ) from error
    if hashlib.sha256(found).hexdigest() != file.sha256:
        raise InputRefused(f"{file.path}: what was kept of it is damaged ({path}): {_instead(run)}")
    return found


def unpack(run: RunDir, code: Code, target: Path) -> None:
    """Writes the files with their modes and times into `target`, which it makes for its owner alone: 0 for the first root, 1, ...

    Raises FileExistsError for a target that is there, InputRefused as `content` does, StoreFailed; of a failure nothing is left.
    """
    target.mkdir(mode=0o700)
    try:
        for number, root in enumerate(code.roots):
            top = target / str(number)
            top.mkdir()
            for folder in {(top / each.path).parent for each in root.files}:
                folder.mkdir(parents=True, exist_ok=True)
            for each in root.files:
                _unpack_file(top / each.path, each, content(run, each))
    except BaseException as error:
        shutil.rmtree(target, ignore_errors=True)
        if isinstance(error, OSError):
            raise StoreFailed.of(error.filename or target, error, run.name) from error
        raise


def _unpack_file(path: Path, file: CodeFile, held: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb", buffering=0) as opened:
        opened.write(held)
        os.fchmod(fd, file.mode)
        os.utime(fd, ns=(file.mtime_ns, file.mtime_ns))


def prune(home: Path) -> None:
    """Removes the contents that no run in `home` needs, one that is being made included. Where a run cannot be looked at, nothing."""
    if not (home / CONTENTS).is_dir():
        return
    with contextlib.suppress(OSError), sharing(home, alone=True) as place:
        needed = {digest.decode() for path in _lists(home) for digest in _DIGESTS.findall(path.read_bytes())}
        for entry in list(place.iterdir()):
            if entry.name != "lock" and entry.name not in needed:
                entry.unlink(missing_ok=True)


def _lists(home: Path) -> list[Path]:
    """Those of folders with a dot too, which are runs that are being made."""
    found = []
    for run in home.iterdir():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found += [path for path in (run / "code").iterdir() if path.suffix == ".json"]
    return found
