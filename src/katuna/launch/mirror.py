"""A folder mirrored for one trial: real folders, copies of code and small files, links to large files; what a trial changed of them.

It serves where the kernel allows no overlay. A write to a copy stays in the trial's own tree. A write through a link reaches the
user's file, which nothing prevents: `changed` finds it afterwards. Owners, access lists and extended attributes are not kept, hard
links become files of their own, and a setuid or setgid bit of a file is dropped.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from posixpath import dirname
from typing import Any, NamedTuple

from katuna.errors import LaunchFailed, is_shortage
from katuna.text import printable
from katuna.trees import PLACE, remove

SMALL_BYTES = 1 << 20
MOST_ENTRIES = 20_000
MOST_BYTES = 512 << 20
COUNTED_AT_MOST = 10 * MOST_ENTRIES
"""The scan goes on to here, so that the folder that has the most is named and not the first one that it came to."""

CACHES = ("__pycache__",)
LINKED_WHOLE = ("node_modules",)
GIT, OBJECTS = ".git", re.compile(r"(?:.*/)?\.git/(?:modules/.+/)?objects")
"""git replaces its files and never writes into them, but for small ones; in the folder of its objects it only adds some."""
VENV_MARK = "pyvenv.cfg"
FICLONE = 0x40049409
PATH_MAX = os.pathconf("/", "PC_PATH_MAX")
GONE = (errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.ESTALE)
"""What a call says of a path that has gone, or has become something else, since it was listed."""


class TooMany(LaunchFailed):
    """`folder` has the most entries or bytes, or the longest path; `count` is how many, or of how many bytes."""

    def __init__(self, message: str, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count
        super().__init__(printable(message))


class Stamp(NamedTuple):
    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True)
class Mirror:
    """What of `root`, the user's folder, was put into `work`, the trial's, by relative paths, which are spelt as `os.fsdecode` does."""

    root: Path
    work: Path
    copied: Mapping[str, Stamp] = field(default_factory=dict)
    """The copy in `work` as it was made."""
    linked: Mapping[str, Stamp] = field(default_factory=dict)
    """The user's file that the link leads to, as it was."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Links of the user's own, and where each leads in `work`."""
    whole: tuple[str, ...] = ()
    """Folders that are a link to the user's, and what may not be looked at."""
    made_ns: int = 0
    """When it was made first, as file systems tell the time."""
    folders: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    """What was about to be added for a trial that begins again; a crash may have left half of it."""

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "root": str(self.root), "work": str(self.work)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Mirror:
        """The inverse of `as_json`."""
        copied, linked = ({path: Stamp(*stamp) for path, stamp in data[name].items()} for name in ("copied", "linked"))
        whole, folders, unfinished = (tuple(data[name]) for name in ("whole", "folders", "unfinished"))
        root, work, made_ns = Path(data["root"]), Path(data["work"]), data.get("made_ns", time.time_ns())
        return cls(root, work, copied, linked, dict(data["links"]), whole, made_ns, folders, unfinished)


def mirror(root: Path, work: Path, *, code: Path | None, leave_out: Collection[Path], state: Path) -> Mirror:
    """Makes `work`, or adds what is new in `root` to the tree that a trial left there. `state` is the file that remembers it.

    `code` is a folder with a snapshot of some files of `root`, which are copied from there. Nothing of `leave_out` is mirrored.
    Where `state` is missing, mirroring was not finished and no trial has begun: what lies in `work` is removed. Otherwise the
    tree stays as the trial left it: files that the trial removed are not copied again, and a removed folder stays away with all
    new files in it.
    Raises TooMany before anything is written, LaunchFailed for a state file that cannot be read, and OSError.
    """
    root, work = root.resolve(), work.parent.resolve() / work.name
    before = _load(state) if work.is_dir() and not work.is_symlink() else None
    known = replace(before, root=root, work=work) if before else Mirror(root, work, made_ns=time.time_ns())
    found = _found(known, code, leave_out)
    new = _missing(found, known) if before else found
    clones = _cloned_devices(new, work.parent)
    _check(known, new, clones)
    if before:
        _save(replace(known, unfinished=tuple(new)), state)
    else:
        state.unlink(missing_ok=True)
        remove(work)
    made = _make(known, new, clones)
    _save(made, state)
    return made


def changed(mirror: Mirror) -> list[str]:
    """The linked files whose real file is gone, or has another size, time or inode than when it was linked, and those in a folder that is
    linked as a whole that were written since; sorted.

    What was removed from such a folder is not found, nor what has changed behind the user's own links. Not looked at is what git has,
    and `__pycache__`.
    """
    found = []
    for path, stamp in mirror.linked.items():
        with contextlib.suppress(OSError):
            if GIT in path.split("/") or _stamp((mirror.root / path).lstat()) == stamp:
                continue
        found.append(path)
    for path in mirror.whole:
        found += [] if OBJECTS.fullmatch(path) else _written_since(mirror.made_ns, mirror.root, path)
    return sorted(found)


def _written_since(moment_ns: int, root: Path, path: str) -> Iterator[str]:
    for base, inner, names in os.walk(root / path):
        inner[:] = [each for each in inner if each not in CACHES]
        for name in names:
            with contextlib.suppress(OSError):
                if os.lstat(os.path.join(base, name)).st_mtime_ns > moment_ns:  # noqa: PTH118
                    yield os.path.relpath(os.path.join(base, name), root)  # noqa: PTH118


def written(mirror: Mirror) -> list[tuple[str, int]]:
    """The results of a trial in `work`: files and links that are new or changed, with their sizes, sorted by path. Folders,
    special files and `__pycache__` are no results, and folders that the trial has closed cannot be read.
    """
    as_made: dict[str, Stamp | str] = {**mirror.copied, **mirror.links}
    as_made |= {path: str(mirror.root / path) for path in (*mirror.linked, *mirror.whole)}
    found: dict[str, int] = {}
    folders = [""]
    while folders:
        above = folders.pop()
        for item in _listed(f"{mirror.work}/{above}") or ():
            path = f"{above}/{item.name}" if above else item.name
            if item.is_dir(follow_symlinks=False):
                folders += [] if item.name in CACHES else [path]
                continue
            with contextlib.suppress(OSError):
                status = item.stat(follow_symlinks=False)
                now = os.readlink(item.path) if item.is_symlink() else _stamp(status)  # noqa: PTH115
                if now != as_made.get(path) and (stat.S_ISREG(status.st_mode) or item.is_symlink()):
                    found[path] = status.st_size
    return sorted(found.items())


def settle(mirror: Mirror) -> None:
    """Takes out of `work` what was put there and has stayed so: what the trial wrote is left."""
    kept = {path for path, _ in written(mirror)}
    for above, folders, files in os.walk(mirror.work, topdown=False):
        below = os.path.relpath(above, mirror.work)
        for name in (*files, *folders):
            path, place = name if below == "." else f"{below}/{name}", Path(above, name)
            with contextlib.suppress(OSError):
                if name in CACHES:
                    remove(place)
                elif place.is_dir() and not place.is_symlink():
                    place.rmdir()
                elif path not in kept:
                    place.unlink()


def check(folders: Collection[Path], leave_out: Collection[Path]) -> None:
    """Raises TooMany for the first of the folders that cannot be mirrored."""
    for folder in folders:
        known = Mirror(folder, folder)
        _check(known, _found(known, None, leave_out), ())


def read(state: Path) -> Mirror:
    """What a state file remembers. Raises LaunchFailed."""
    found = _load(state)
    if found is None:
        raise LaunchFailed(f"{state} is gone: it remembers a trial's working folder")
    return found


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ino)


def _load(state: Path) -> Mirror | None:
    """None where there is no such file. What a crash may have left half added is removed."""
    try:
        known = Mirror.from_json(json.loads(state.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LaunchFailed(f"{state} is not as katuna wrote it ({error!r}); remove it to begin the trial anew") from None
    for path in reversed(known.unfinished):
        remove(known.work / path)
    return replace(known, unfinished=())


def _save(made: Mirror, state: Path) -> None:
    fresh = state.with_name(state.name + ".new")
    with fresh.open("w", encoding="ascii") as file:
        json.dump(made.as_json(), file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(state)


class _Kind(Enum):
    FOLDER = "folder"
    COPIED = "a file to be copied, if it can be read"
    LARGE = "a file to be linked, unless a copy costs nothing"
    LINK = "a link of the user's own"
    WHOLE = "linked, and not looked at"


@dataclass(frozen=True, slots=True)
class _Entry:
    kind: _Kind
    source: str
    """Where it lies; of LINK, what the link in the mirror says."""
    status: os.stat_result | None = None


_Entries = dict[str, _Entry]
"""By relative path, "" of the folder itself; a folder comes before all that is in it."""


def _found(known: Mirror, code: Path | None, leave_out: Collection[Path]) -> _Entries:
    """What is to be in the mirror, but for files and links that it was given before."""
    root, given = str(known.root), {*known.copied, *known.linked, *known.links, *known.whole}
    places = [known.work, *leave_out, *([code] if code else [])]
    skipped = {str(place.parent.resolve() / place.name) for place in places} | {str(place.resolve()) for place in places}
    found = _scan(root, root, skipped, given, is_code=False)
    if code and len(found) <= MOST_ENTRIES:
        _lay_over(found, _scan(str(code.resolve()), root, (), given, is_code=True))
    return found


def _scan(top: str, root: str, skipped: Collection[str], given: Collection[str], *, is_code: bool) -> _Entries:
    """Past MOST_ENTRIES it only counts, up to COUNTED_AT_MOST."""
    found = {"": _Entry(_Kind.FOLDER, top, Path(top).stat())}
    folders = [("", top)]
    while folders and len(found) < COUNTED_AT_MOST:
        above, place = folders.pop()
        listed = _listed(place, COUNTED_AT_MOST - len(found))
        if listed is None and not above:
            raise LaunchFailed(f"{top} cannot be listed: its mode keeps this user out")
        if above and (listed is None or any(item.name == VENV_MARK for item in listed)):
            found[above] = _Entry(_Kind.WHOLE, place)
            continue
        for item in listed or ():
            path = f"{above}/{item.name}" if above else item.name
            if item.path in skipped or path in given:
                continue
            if len(found) > MOST_ENTRIES and not item.is_dir(follow_symlinks=False):
                found[path] = _Entry(_Kind.COPIED, item.path)
            elif entry := _entry(item, path, root, is_code=is_code):
                found[path] = entry
                folders += [(path, item.path)] if entry.kind is _Kind.FOLDER else []
    return found


def _listed(folder: str, most: int | None = None) -> list[os.DirEntry[str]] | None:
    """The first entries; None for a folder that cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return list(itertools.islice(entries, most))
    except OSError as error:
        if is_shortage(error):
            raise
        return [] if error.errno in GONE else None


def _entry(item: os.DirEntry[str], path: str, root: str, *, is_code: bool) -> _Entry | None:
    """None for what is not mirrored, or has gone. What cannot be looked at is linked: a trial meets the same error there."""
    try:
        status = item.stat(follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            return _Entry(_Kind.LINK, _led(os.readlink(item.path), path, root), status)  # noqa: PTH115
    except OSError as error:
        return None if error.errno in GONE else _Entry(_Kind.WHOLE, item.path)
    if stat.S_ISDIR(status.st_mode) and item.name not in CACHES:
        is_whole = item.name in LINKED_WHOLE or OBJECTS.fullmatch(path) is not None or PLACE.fullmatch(item.name) is not None
        return _Entry(_Kind.WHOLE if is_whole else _Kind.FOLDER, item.path, status)
    if stat.S_ISREG(status.st_mode):
        return _Entry(_Kind.COPIED if is_code or status.st_size <= SMALL_BYTES else _Kind.LARGE, item.path, status)
    return None


def _led(text: str, path: str, root: str) -> str:
    """Where the link at `path` of `root` is to lead: as it is if each step of it stays within `root`, else to the place itself."""
    depth = path.count("/")
    for part in text.split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
        if text.startswith("/") or depth < 0:
            return str(Path(root, dirname(path), text))
    return text


def _lay_over(found: _Entries, code: _Entries) -> None:
    """Puts the snapshot over what the user has, but not below a folder linked as a whole or a link to another folder of the mirror."""
    closed: set[str] = set()
    for path, entry in code.items():
        there = found.get(path)
        leads_within = there and there.kind is _Kind.LINK and not there.source.startswith("/")
        is_folder = entry.kind is _Kind.FOLDER
        if dirname(path) in closed or (is_folder and there and (there.kind is _Kind.WHOLE or leads_within)):
            closed.add(path)
        elif there is None or there.kind is not _Kind.FOLDER:
            found[path] = entry
        elif not is_folder:
            for below in [each for each in found if each.startswith(f"{path}/")]:
                del found[below]
            found[path] = entry


def _missing(found: _Entries, known: Mirror) -> _Entries:
    """What has come since the trial began, and can be put where nothing is in its way."""
    new: _Entries = {}
    given = set(known.folders)
    for path, entry in found.items():
        if path not in given and (dirname(path) in new or _is_free(known.work / path)):
            new[path] = entry
    return new


def _is_free(place: Path) -> bool:
    """Whether something new can be put there. A folder of that path may be the trial's link to somewhere else."""
    above = str(place.parent)
    return os.path.realpath(above) == above and os.access(above, os.W_OK | os.X_OK) and not os.path.lexists(place)


def _check(mirror: Mirror, new: _Entries, clones: Collection[int]) -> None:
    """Raises TooMany."""
    root = mirror.root
    costly = {path: entry.status for path, entry in new.items() if entry.kind is _Kind.COPIED and entry.status}
    sizes = {path: status.st_size for path, status in costly.items() if status.st_dev not in clones}
    limits = (("files and folders", dict.fromkeys(new, 1), MOST_ENTRIES), ("bytes in small files", sizes, MOST_BYTES))
    for what, weights, most in limits:
        total = sum(weights.values())
        if total > most:
            folder, count = _heaviest(weights)
            bound = "at least " if len(new) >= COUNTED_AT_MOST else ""
            message = f"{root} has {bound}{total:,} {what}, {count:,} of them in {root / folder}"
            raise TooMany(f"{message}; a trial's copy of it may have {most:,}", root / folder, count)
    longest = max(new, key=lambda path: len(os.fsencode(path)), default="")
    length = max(len(os.fsencode(place / longest)) for place in (root, mirror.work))
    if length >= PATH_MAX:
        place = root / longest.partition("/")[0]
        raise TooMany(f"{place} is too deep: a path of {length:,} bytes cannot be mirrored", place, length)


def _heaviest(weights: Mapping[str, int]) -> tuple[str, int]:
    """The folder with the largest share of `weights`, and that share. An inner folder is named where it holds over half of the
    outer one."""
    totals: Counter[str] = Counter()
    for path, weight in weights.items():
        folder = dirname(path)
        totals["."] += 0 if folder else weight
        while folder:
            totals[folder] += weight
            folder = dirname(folder)
    top = max((folder for folder in totals if "/" not in folder), key=totals.__getitem__)
    within = [folder for folder in totals if f"{folder}/".startswith(f"{top}/") and 2 * totals[folder] > totals[top]]
    return max(within, key=len), totals[max(within, key=len)]


def _make(known: Mirror, new: _Entries, clones: Collection[int]) -> Mirror:
    """Puts what is new into `work`."""
    copied, linked = dict(known.copied), dict(known.linked)
    for path, entry in new.items():
        place = known.work / path
        if entry.kind is _Kind.FOLDER:
            place.mkdir()
        elif entry.kind in (_Kind.LINK, _Kind.WHOLE):
            place.symlink_to(entry.source)
        elif entry.status:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                if stamp := _copy(entry, place, clone=entry.status.st_dev in clones):
                    copied[path] = stamp
                else:
                    place.symlink_to(entry.source)
                    linked[path] = _stamp(entry.status)
    # Last, as each entry gives its folder a new time.
    for path, entry in reversed(new.items()):
        if entry.kind is _Kind.FOLDER and entry.status:
            (known.work / path).chmod(stat.S_IMODE(entry.status.st_mode) | stat.S_IRWXU)
            os.utime(known.work / path, ns=(entry.status.st_atime_ns, entry.status.st_mtime_ns))
    links = {path: entry.source for path, entry in new.items() if entry.kind is _Kind.LINK}
    whole, folders = ([path for path, entry in new.items() if entry.kind is kind] for kind in (_Kind.WHOLE, _Kind.FOLDER))
    made = replace(known, copied=copied, linked=linked, links={**known.links, **links})
    return replace(made, whole=(*known.whole, *whole), folders=(*known.folders, *folders))


def _copy(entry: _Entry, place: Path, *, clone: bool) -> Stamp | None:
    """A copy with the source's mode and time; None where the file is to be linked."""
    with contextlib.suppress(PermissionError), Path(entry.source).open("rb") as source, place.open("xb") as file:
        is_cloned = clone and _clone(source.fileno(), file.fileno())
        if entry.kind is _Kind.COPIED or is_cloned:
            if not is_cloned:
                shutil.copyfileobj(source, file)
                file.flush()
            status = os.fstat(source.fileno())
            os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode) & 0o777)
            os.utime(file.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
            return _stamp(os.fstat(file.fileno()))
    place.unlink(missing_ok=True)
    return None


def _clone(source: int, target: int) -> bool:
    """Lets two files share their blocks until one is written to, where Linux and the file system can."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(target, FICLONE, source)
        return True
    return False


def _cloned_devices(entries: _Entries, folder: Path) -> set[int]:
    """The devices whose files can be cloned into `folder`: one file of each is tried, on a file without a name."""
    answers: dict[int, bool] = {}
    for entry in entries.values():
        status = entry.status
        if status and stat.S_ISREG(status.st_mode) and status.st_size and status.st_dev not in answers:
            with contextlib.suppress(OSError), Path(entry.source).open("rb") as one, tempfile.TemporaryFile(dir=folder) as other:
                answers[status.st_dev] = _clone(one.fileno(), other.fileno())
    return {device for device, clones in answers.items() if clones}
