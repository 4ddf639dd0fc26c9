"""The log of one run of a container, written to a file as it grows: each line once, through outages of the API server."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

from katuna.cluster.api import Api
from katuna.errors import ClusterRefused, ClusterUnreachable
from katuna.log import ANEW
from katuna.trees import open_plain

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
TRIES = 10
"""How often a refusal is asked again once the container has ended."""
ENDS_SOON_S = 3.0
"""A stream mostly ends with its container, whose end is told a moment later; one that is opened too soon may be the next run's."""
APPENDED = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_TIME = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ?")


class LogFollower(threading.Thread):
    """Follows the log of `container` in `pod` into `path`, behind what is there. `mark` is written before it where the file has lines of
    an earlier run. `start` is where its own lines begin.

    Tell it by `ended` that the container has ended; it then reads what is left and is `complete`. `restarts` is how often the
    container had been restarted, None for one that its pod never restarts: once it runs again, its log is the previous one. Logs that are gone (their pod was deleted) are complete with what was read of
    them; `lost` says so.
    """

    def __init__(self, api: Api, pod: str, container: str, path: Path, mark: str, *, restarts: int | None = None) -> None:
        super().__init__(name=f"log-{pod}", daemon=True)
        self._api = api
        self._pod = pod
        self._container = container
        self._ended = threading.Event()
        self._closed = threading.Event()
        self._restarts = restarts
        self._last: tuple[bytes, bytes] = (b"", b"")
        self._written_then = 0
        self.complete = threading.Event()
        self.lost = ""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.fdopen(open_plain(path, APPENDED, 0o666), "ab", buffering=0)
        if self._file.tell():
            self._file.write(b"\n%s%s ---\n" % (ANEW, mark.encode()))
        self.start_at = self._file.tell()

    def ended(self) -> None:
        self._ended.set()

    def close(self) -> None:
        self._closed.set()

    def run(self) -> None:
        pause_s, tries = FIRST_PAUSE_S, 0
        while not self._closed.is_set():
            was_over = self._ended.is_set()
            try:
                if was_over:
                    self._read_rest()
                    break
                lines = self._lines()
                if self._restarts is None or not self._has_restarted(self._restarts):
                    self._write(lines)
                pause_s = FIRST_PAUSE_S
                self._ended.wait(ENDS_SOON_S)
                continue
            except ClusterUnreachable as error:
                pause_s = max(pause_s, error.after_s)
            except ClusterRefused as refused:
                tries += 1
                # A server that has just been started may not know its roles yet.
                if refused.status == 404 or (was_over and tries > TRIES):
                    self.lost = str(refused)
                    break
            self._closed.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        self._file.close()
        self.complete.set()

    def _read_rest(self) -> None:
        """What is left once the container has ended. The API server knows a container's current log and the previous one, and a restart
        may come between two questions, so it is asked for the number of restarts before and after."""
        if self._restarts is None:
            self._write(self._lines(follow=False))
        elif self._has_restarted(self._restarts):
            self._write(self._lines(follow=False, previous=True))
        else:
            rest = list(self._lines(follow=False))
            self._write(self._lines(follow=False, previous=True) if self._has_restarted(self._restarts) else iter(rest))

    def _has_restarted(self, before: int) -> bool:
        pod = self._api.get("Pod", self._pod) or {}
        status = pod.get("status") or {}
        each = (*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or []))
        return any(one["name"] == self._container and int(one.get("restartCount") or 0) > before for one in each)

    def _lines(self, *, follow: bool = True, previous: bool = False) -> Iterator[bytes]:
        """From the last line's second on."""
        since = (self._last[0] + b"Z").decode() if self._last[0] else ""
        return self._api.log(self._pod, self._container, since=since, previous=previous, follow=follow)

    def _write(self, lines: Iterator[bytes]) -> None:
        """Less those that have been written."""
        same = self._written_then
        for line in lines:
            if self._closed.is_set():
                return
            time = _TIME.match(line)
            at = (time[1], (time[2] or b"").ljust(9, b"0")) if time else self._last
            if at < self._last:
                continue
            if at == self._last and same:
                same -= 1
                continue
            self._written_then = self._written_then + 1 if at == self._last else 1
            self._last, same = at, 0 if at != self._last else same
            self._file.write(line[time.end() :] + b"\n" if time else line + b"\n")
