"""The lines of growing logs: read once each, however long they are or however fast they come."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from katuna.metrics.follow import behind_hole
from katuna.trees import plain

READ_BYTES = 65536
COUNTED_BYTES = 1 << 25
"""Of what is left out, the lines in so much are counted."""

_END = re.compile(rb"\r?\n|\r(?=[^\n])")


class Lines:
    """A log from where it was last read; a line that is still being written waits. A file that is not there yet is empty."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self._offset = offset
        self._rest = b""
        self._refused = False

    def new(self, *, last: bool = False) -> Iterator[str]:
        """The lines since the last call, without line ends. With `last`, also a last line that has no end yet."""
        return (line for line, _ in self.states(last=last))

    def states(self, *, last: bool = False, most_bytes: int | None = None) -> Iterator[tuple[str, bool]]:
        """As `new`, and of each whether a carriage return ended it: so a progress bar goes on to its next state. What is more than
        `most_bytes` waits, but for the last time."""
        try:
            file = plain(self.path)
        except FileNotFoundError:
            return
        except OSError as error:
            if not self._refused:
                yield f"{self.path}: {error.strerror}", False
            self._refused = True
            return
        with file:
            # Up to where it ends now: its writer may be faster than whoever is shown it.
            end_now = os.fstat(file.fileno()).st_size
            if most_bytes is not None and not last:
                end_now = min(end_now, self._offset + most_bytes)
            while chunk := os.pread(file.fileno(), min(READ_BYTES, max(0, end_now - self._offset)), self._offset):
                end, self._offset = self._offset + len(chunk), behind_hole(file.fileno(), self._offset, chunk)
                if self._offset > end:
                    continue
                data, begin = self._rest + chunk, 0
                for line_end in _END.finditer(data):
                    yield data[begin : line_end.start()].decode(errors="replace"), line_end[0] == b"\r"
                    begin = line_end.end()
                self._rest = data[begin:]
                if len(self._rest) > READ_BYTES:
                    yield self._take_rest(), False
        if last and self._rest:
            yield self._take_rest(), False

    def _take_rest(self) -> str:
        rest, self._rest = self._rest, b""
        return rest.decode(errors="replace")

    def skip(self, most_bytes: int) -> str:
        """Where more than `most_bytes` wait, leaves out the older of them; returns how many lines that were, in words, "" for none."""
        try:
            file = plain(self.path)
        except OSError:
            return ""
        with file:
            waiting = file.seek(0, 2) - self._offset
            if waiting <= most_bytes:
                return ""
            left_out, behind = 0, waiting - most_bytes // 2
            more = "more than " if behind > COUNTED_BYTES else ""
            behind = min(behind, COUNTED_BYTES)
            file.seek(self._offset + waiting - most_bytes // 2 - behind)
            while behind > 0 and (chunk := file.read(min(behind, READ_BYTES))):
                left_out += chunk.count(b"\n")
                behind -= len(chunk)
            left_out += file.readline(most_bytes).endswith(b"\n")
            self._offset = file.tell()
        self._rest = b""
        return f"{more}{left_out} lines" if left_out else ""
