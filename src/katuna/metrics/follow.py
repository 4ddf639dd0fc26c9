"""Following a file while a trial writes it: its bytes once each, through renaming, truncation, rewriting, deletion and late birth."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

from katuna.trees import open_plain

READ_BYTES = 1 << 15
"""At most this much is taken in at one `read`, so that a chatty trial holds up neither the others nor who wants to stop it."""
COMPARED_BYTES = 1 << 22
"""At most this much of another text is compared at one `read` with what was read before."""

_MARK = 64
_HOLE = 4096
_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EINVAL)


class Follower:
    """Reads a growing file from byte `start` on. One that does not exist yet, cannot be opened or is no regular file, is empty;
    one behind a link is read with `follow` alone. Holes, which take up no disk, are passed over.

    A file that takes the path's place, or is cut off and written anew, is read from its beginning, after the rest of what was
    there before. Where it begins with all the bytes that were read already, as a file does that is written anew with each epoch,
    only what follows them is read. An empty file takes nobody's place: its writer has not begun. Between two looks more than one
    such change loses what came between.
    """

    def __init__(self, path: Path, start: int = 0, *, follow: bool = False) -> None:
        self.path = path
        self._follow = follow
        self.at_end = False
        self.found = False
        self._file = -1
        self._start = self._offset = start
        self._seen = hashlib.blake2b()
        self._comparing: tuple[hashlib.blake2b, int] | None = None
        self._mark = b""
        self._changed_ns = 0

    def read(self) -> bytes:
        """What came since the last call, up to READ_BYTES of it; `at_end` says whether that was all. Between two files is a newline."""
        if self._file < 0 and not self._open():
            self.at_end = True
            return b""
        if self._comparing or self._is_rewritten():
            return self._anew()
        data = self._take()
        if not data and self.at_end and self._is_replaced() and self._open():
            return self._anew()
        return data

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _open(self) -> bool:
        """Opens what is at the path now; the file before it is let go."""
        try:
            # A trial may have made a pipe of that name, or a link to a device.
            file = open_plain(self.path, os.O_RDONLY, follow=self._follow)
        except OSError as error:
            if error.errno in _NOTHING_THERE:
                return False
            raise
        self.close()
        self._file, self.found = file, True
        return True

    def _take(self) -> bytes:
        data = os.pread(self._file, READ_BYTES, self._offset)
        self.at_end = len(data) < READ_BYTES
        behind = behind_hole(self._file, self._offset, data)
        if behind > self._offset + len(data):
            self._offset, self._mark = behind, b""
            return b""
        if data:
            self._offset = behind
            self._seen.update(data.replace(b"\0", b""))
            self._mark = (self._mark + data)[-_MARK:]
        return data

    def _is_rewritten(self) -> bool:
        """Whether the open file was cut off, and perhaps written anew, behind our back."""
        status = os.fstat(self._file)
        if status.st_mtime_ns == self._changed_ns or not status.st_size:
            return False
        self._changed_ns = status.st_mtime_ns
        return os.pread(self._file, len(self._mark), self._offset - len(self._mark)) != self._mark

    def _is_replaced(self) -> bool:
        """Whether another file, with something in it, is at the path now."""
        try:
            there, here = self.path.stat(), os.fstat(self._file)
        except OSError:
            return False
        return there.st_size > 0 and (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)

    def _anew(self) -> bytes:
        """Places us in another text: behind what was seen of it before, else at its beginning, which begins a line."""
        seen, place = self._comparing or (hashlib.blake2b(), self._start)
        self._comparing, stop = None, min(self._offset, place + COMPARED_BYTES)
        while place < stop and (data := os.pread(self._file, min(READ_BYTES, stop - place), place)):
            seen.update(data.replace(b"\0", b""))
            place = min(self._offset, behind_hole(self._file, place, data))
        if stop <= place < self._offset:
            self._comparing, self.at_end = (seen, place), False
            return b""
        if place == self._offset and seen.digest() == self._seen.digest():
            return self._take()
        self._start = self._offset = 0
        self._seen, self._mark = hashlib.blake2b(), b""
        return b"\n" + self._take()


def behind_hole(file: int, place: int, data: bytes) -> int:
    """The place to read on after `data`, which was read at `place`: the end of `data`, or the end of the hole that it lies in.
    A sparse file of a terabyte may take no disk."""
    end = place + len(data)
    if len(data) < _HOLE or data.count(0) < len(data):
        return end
    try:
        return max(end, os.lseek(file, place, os.SEEK_DATA))
    except OSError as error:
        # A hole to the end.
        return max(end, os.fstat(file).st_size) if error.errno == errno.ENXIO else end
