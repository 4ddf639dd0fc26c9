"""The append-only journal: one JSON object a line, each with a checksum. This module decides which damage a crash explains.

The first line says `"format": 2`: each checksum goes on from the one before, so that a line proves all lines before it and their
order. Where it says no format each checksum is of its line alone, as older versions wrote it, and as a resume then goes on.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, get_args

from katuna.errors import InputRefused, JournalDamaged, StoreFailed
from katuna.jobs.lifecycle import ContainerExited
from katuna.runs.events import RETIRED, from_json, to_json
from katuna.search.trials import Asked, Event, Exited, Opened, Reported, Resumed, Started, Told
from katuna.trees import open_plain

LOOK_AFTER_S = 0.25
"""How often to see that the run's folder is where it was."""
SYNC_AFTER_S = 0.5
"""How long what a trial tells may wait for the disk, unless a decision is written before."""

_TOLD = (Started, Reported, Exited, *get_args(Told))
_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_DECODE = json.JSONDecoder().decode

FORMAT = 2
_FORMAT = b', "format": %d' % FORMAT
_CRC = b', "crc": "'
_TAIL = len(_CRC) + 8 + 2
_WHOLE = re.compile(re.escape(_CRC) + rb'[0-9a-f]{8}"\}')


class _Later(ValueError):
    """A line that katuna wrote, and no version known here."""


class _Earlier(ValueError):
    """The first line of a journal that this version does not read."""


def encode(event: Event, before: int = 0, *, mark: bytes = b"") -> bytes:
    """A journal line: the event's JSON with `crc`, the CRC-32 of the text before it going on from `before`, as its last key."""
    body = _ENCODE(to_json(event)).encode("utf-8", "backslashreplace")[:-1] + mark
    return body + _CRC + b'%08x"}\n' % zlib.crc32(body, before)


def begin(events: Iterable[Event]) -> bytes:
    """A new journal that holds `events`."""
    text, line = b"", b""
    for event in events:
        line = encode(event, _crc_of(line[:-1]), mark=b"" if line else _FORMAT)
        text += line
    return text


def decode(line: bytes, before: int = 0) -> Event:
    """The event of a line without its newline. Raises ValueError saying what is wrong with it."""
    body, tail = line[:-_TAIL], line[-_TAIL:]
    if not tail.startswith(_CRC) or not tail.endswith(b'"}'):
        raise ValueError("the line does not end in a checksum")
    if tail[len(_CRC) : -2] != b"%08x" % zlib.crc32(body, before):
        raise ValueError(
            "the checksum does not match" + (": this line, or one before it, was changed, moved or lost" if before else "")
        )
    plain = _DECODE(body.decode() + "}")
    if plain.pop("format", FORMAT) != FORMAT:
        raise _Later("another format")
    if plain.get("event") in RETIRED:
        raise _Earlier
    try:
        return from_json(plain)
    except (ValueError, KeyError, TypeError) as error:
        raise _Later(str(error)) from None


def _crc_of(line: bytes) -> int:
    """What a line without its newline says; 0 where it says nothing."""
    return int(line[-10:-2], 16) if _WHOLE.fullmatch(line, max(0, len(line) - _TAIL)) else 0


def _is_chained(first: bytes) -> bool:
    return first[:-_TAIL].endswith(_FORMAT)


def read(path: Path) -> Iterator[tuple[Event, int]]:
    """Each event of a journal with the offset at which its line ends.

    A crash leaves a last line without a newline. It is skipped unless its checksum is complete.
    Raises JournalDamaged at any other line that cannot be trusted, InputRefused for one of a later version and for no line at all.
    """
    nothing = True
    for each in _lines(path):
        nothing = False
        yield each
    if nothing:
        raise InputRefused(
            f"{path} is empty: nothing that this run did is known, so nothing can go on; start anew with `katuna tune FILE` or "
            f"`katuna train FILE`, and remove this run with `katuna rm {path.parent.name}`"
        )


def _lines(path: Path) -> Iterator[tuple[Event, int]]:
    """As `read`; nothing where nothing is written yet."""
    end = asked = before = 0
    first: Event | None = None
    chained = False
    with _opened(path) as file:
        for number, raw in enumerate(file, start=1):
            line = raw.removesuffix(b"\n")
            try:
                event = decode(line, before)
                asked = _follows(event, first, asked)
            except _Earlier:
                raise InputRefused(
                    f"{path} is of a job that katuna 0.1.0 ran, which kept another kind of journal; its logs and checkpoints lie in "
                    f"{path.parent}, and `katuna train {path.parent / 'job.yaml'}` starts it anew"
                ) from None
            except _Later as error:
                raise InputRefused(f"{path}, line {number}: written by a later katuna; upgrade to read it ({error})") from None
            except (ValueError, KeyError, TypeError) as error:
                if not raw.endswith(b"\n") and not _WHOLE.search(line):
                    return
                raise JournalDamaged(_damage(path, number, error), number) from None
            if first is None:
                first, chained = event, _is_chained(line)
            if chained:
                before = int(line[-10:-2], 16)
            end += len(raw)
            yield event, end


def _opened(path: Path) -> BinaryIO:
    """Raises InputRefused for a link and what else is no regular file."""
    try:
        return os.fdopen(open_plain(path, os.O_RDONLY), "rb")
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EINVAL):
            raise InputRefused(f"{path}: {error.strerror}; put the run's own journal there") from None
        raise


def _follows(event: Event, first: Event | None, asked: int) -> int:
    """How many trials have been asked for after `event`, where `first` is the journal's first. Raises ValueError for an event that
    cannot stand here."""
    if isinstance(event, Opened) != (first is None):
        raise ValueError("a journal has one Opened event, its first" if first is None else "a second Opened event")
    if isinstance(event, Asked):
        if event.number != asked:
            raise ValueError(f"trial {event.number} is asked for where trial {asked} comes next")
        return asked + 1
    number = max(event.restarted, default=-1) if isinstance(event, Resumed) else getattr(event, "number", -1)
    if number >= asked:
        raise ValueError(f"an event of trial {number}, which nobody has asked for")
    return asked


def _damage(path: Path, line: int, error: Exception) -> str:
    keep = (
        f"`katuna resume {path.parent.name} --drop-after {line - 1}` goes on with the lines before it and keeps this file beside it"
        if line > 1
        else "nothing comes before it: start the search anew"
    )
    return f"{path}, line {line}: {error}. Nothing was changed. {keep}"


class Journal:
    """The Store of a run: one writer (the run folder's lock sees to that), any number of readers.

    What katuna decides (a trial to run, to stop, the end) is on disk before `append` returns, and with it all that came before.
    What trials tell waits for the next decision, or for `sync`: nothing follows from it before, and a file is written in order.
    """

    def __init__(self, path: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Opens for appending, creating the file if need be; cuts off a torn last line. Damage elsewhere is for `replay` to find.

        Raises JournalDamaged, StoreFailed.
        """
        self.path = path
        self._monotonic = monotonic
        self._waiting_since: float | None = None
        self._looked = monotonic()
        try:
            self._fd = open_plain(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise self._failure(error) from error
        self._end = os.fstat(self._fd).st_size
        self._guarded(self._mend_tail)
        self._chained, self._crc = True, 0
        self._guarded(self._take_up)

    def _mend_tail(self) -> None:
        """After a crash in the middle of a write: drop half a line, or give a whole one its newline."""
        size = self._end
        if not size or os.pread(self._fd, 1, size - 1) == b"\n":
            return
        self._end = 0
        for _, end in _lines(self.path):
            self._end = end
        if size > self._end:
            os.ftruncate(self._fd, self._end)
        else:
            self._end += os.write(self._fd, b"\n")

    def _take_up(self) -> None:
        """Goes on in the format that the first line says, from the checksum of the last one."""
        if self._end:
            with open(self._fd, "rb", closefd=False) as file:
                file.seek(0)
                self._chained = _is_chained(file.readline().removesuffix(b"\n"))
            last = os.pread(self._fd, _TAIL, max(0, self._end - 1 - _TAIL))
            self._crc = _crc_of(last) if self._chained else 0

    def append(self, event: Event) -> None:
        self._see_place(now=getattr(event, "code", 0) != 0 and isinstance(event, Exited | ContainerExited))
        line = encode(event, self._crc, mark=b"" if self._end else _FORMAT)
        if self._waiting_since is None:
            self._waiting_since = self._monotonic()
        try:
            written = os.write(self._fd, line)
            while written < len(line):
                written += os.write(self._fd, line[written:])
            if not isinstance(event, _TOLD):
                self._fsync()
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._end)
            raise self._failure(error) from error
        self._end += len(line)
        if self._chained:
            self._crc = int(line[-11:-3], 16)

    def replay(self) -> Iterator[Event]:
        return (event for event, _ in _lines(self.path))

    def sync(self, after_s: float = SYNC_AFTER_S) -> None:
        """Has on disk what has waited for so long. Raises StoreFailed, also when the run is no longer where it was."""
        self._see_place()
        if self._waiting_since is not None and self._monotonic() - self._waiting_since >= after_s:
            self._guarded(self._fsync)

    def _see_place(self, *, now: bool = False) -> None:
        """Raises StoreFailed when the run's folder was renamed or removed: what its trials write would go astray. A failure may be one
        of that, so it is looked for then `now`."""
        moment = self._monotonic()
        if not now and moment - self._looked < LOOK_AFTER_S:
            return
        self._looked = moment
        ours = os.fstat(self._fd)
        try:
            found = self.path.stat(follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            found = None
        except OSError as error:
            raise self._failure(error) from error
        if found is None or (found.st_ino, found.st_dev) != (ours.st_ino, ours.st_dev):
            raise StoreFailed(
                f"{self.path.parent} is no longer this run's folder: it was renamed, moved or removed while the run was at work, which "
                f"stops it. What was recorded is where the folder is now: `katuna resume` with its new name goes on"
            )

    def _guarded(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> StoreFailed:
        return StoreFailed.of(self.path, error, self.path.parent.name)

    def _fsync(self) -> None:
        os.fsync(self._fd)
        self._waiting_since = None

    def close(self) -> None:
        """Idempotent; what was appended is on disk afterwards."""
        if self._fd >= 0:
            try:
                if self._waiting_since is not None:
                    self._guarded(self._fsync)
            finally:
                fd, self._fd = self._fd, -1
                os.close(fd)


def drop_after(path: Path, line: int) -> Path:
    """Keeps the first `line` lines as the journal and the damaged file beside it; returns where.

    Raises InputRefused when the journal is not damaged after that line: there would be nothing to mend and results to lose.
    """
    try:
        for _ in read(path):
            pass
    except JournalDamaged as damage:
        if damage.line <= line:
            raise
    else:
        raise InputRefused(f"{path} is whole: nothing was dropped; `katuna resume {path.parent.name}` goes on with it")
    kept = b"".join(path.read_bytes().splitlines(keepends=True)[:line])
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.damaged-{number}")):
        number += 1
    os.link(path, aside)
    write_beside(path, kept)
    sync_folder(path.parent)
    return aside


def write_beside(path: Path, content: bytes) -> None:
    """Puts a new file in the place of what is there, which may be a link, all of it or nothing. Raises OSError."""
    fresh = path.with_name(f".{path.name}-{secrets.token_hex(4)}.new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """New names in a folder are on disk when this returns."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
