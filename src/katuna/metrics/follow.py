"""Following a file while a trial writes it: its bytes once each, through renaming, truncation, rewriting, deletion and late birth."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

READ_BYTES = 1 << 20
"""At most this much is taken in at one `read`, so that a chatty trial does not hold up the others."""

_MARK = 64


class Follower:
    """Reads a growing file from byte `start` on. One that does not exist yet, or cannot be opened, is empty.

    A file that takes the path's place, or is cut off and written anew, is read from its beginning, after the rest of what was
    there before. Where it begins with all the bytes that were read already, as a file does that is written anew with each epoch,
    only what follows them is read. An empty file takes nobody's place: its writer has not begun. Between two looks more than one
    such change loses what came between.
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        self.path = path
        self.at_end = False
        self.found = False
        self._file = -1
        self._start = self._offset = start
        self._seen = hashlib.blake2b()
        self._mark = b""
        self._changed_ns = 0

    def read(self) -> bytes:
        """What came since the last call, up to READ_BYTES of it; `at_end` says whether that was all. Between two files is a newline."""
        if self._file < 0 and not self._open():
            self.at_end = True
            return b""
        data = self._anew() if self._is_rewritten() else b""
        data += self._take()
        if not data and self._is_replaced() and self._open():
            data = self._anew() + self._take()
        return data

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _open(self) -> bool:
        """Opens what is at the path now; the file before it is let go."""
        try:
            # Not blocking: a trial may have made a pipe of that name.
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return False
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            return False
        self.close()
        self._file, self.found = file, True
        return True

    def _take(self) -> bytes:
        data = os.pread(self._file, READ_BYTES, self._offset)
        self.at_end = len(data) < READ_BYTES
        if data:
            self._offset += len(data)
            self._seen.update(data)
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
        seen, place = hashlib.blake2b(), self._start
        while place < self._offset and (data := os.pread(self._file, min(READ_BYTES, self._offset - place), place)):
            seen.update(data)
            place += len(data)
        if place == self._offset and seen.digest() == self._seen.digest():
            return b""
        self._start = self._offset = 0
        self._seen, self._mark = hashlib.blake2b(), b""
        return b"\n"
