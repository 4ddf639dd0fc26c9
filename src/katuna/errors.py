"""What can go wrong for a user, as one tree of exceptions; the command line alone prints them and picks the exit code.

KatunaError                 anything katuna reports as one message
├── InputRefused            what was given cannot be used; nothing was started (exit 2)
│   ├── SpecRefused         a manifest has errors; carries every Finding of the files
│   ├── RenderRefused       a trial's job cannot be made from the template and these assignments
│   ├── RunNotFound         no run of that name, or a prefix of several
│   ├── RunLocked           another katuna process is at work in the run folder
│   ├── CodeTooLarge        the files to be kept are too many or too large for code
│   ├── TellFirst           a search driven from Python needs results before its next point; carries the trials' numbers
│   └── JournalDamaged      a journal line fails its checksum; carries the line
├── StoreFailed             the disk failed, or files, processes, memory ran short; the run is resumable (exit 1)
├── FilesMixed              a trial has written where others read, so values would mix; the search is resumable (exit 1)
├── SearchExhausted         a search driven from Python has no point left to ask for
├── LaunchFailed            a trial could not be started on this machine (exit 1)
├── ClusterRefused          the API server of a cluster refuses a request; carries its status and reason (exit 1)
├── ClusterUnreachable      no answer of the API server, or one that asks for another try (exit 1)
└── Interrupted             SIGINT or SIGTERM ended the search; resumable (exit 130 or 143)

A programming error of ours is an AssertionError or whatever Python raises, never one of these.
"""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning", "note"]
Engine = Literal["katib", "cluster", "local"]
"""What runs a search: Katib on a cluster; katuna, with trials on a cluster; katuna, with trials on this machine."""

EVERYWHERE: tuple[Engine, ...] = ("katib", "cluster", "local")
KATIB: tuple[Engine, ...] = ("katib",)
CLUSTERS: tuple[Engine, ...] = ("katib", "cluster")
KATUNA: tuple[Engine, ...] = ("cluster", "local")
LOCAL: tuple[Engine, ...] = ("local",)


@dataclass(frozen=True, order=True)
class Finding:
    """One remark about an input file.

    `line` and `column` count from 1; 0 means that the remark is about the file as a whole. `path` is the
    field path in the spelling of the Kubernetes API server, e.g. `spec.parameters[0].feasibleSpace.min`.
    `code` names the rule (docs/lint.md lists them), `value` is the field's own where it is short, and `on` are the engines that
    the finding holds for.
    """

    file: str
    line: int
    column: int
    path: str
    message: str
    level: Level = "error"
    hint: str = ""
    on: tuple[Engine, ...] = EVERYWHERE
    code: str = ""
    value: str = ""

    def __str__(self) -> str:
        return self.line_with("")

    def line_with(self, less: str) -> str:
        """`file:line:column: level[code] on ENGINES: path: message (repair)`; `less` goes after the engines."""
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        code = f"[{self.code}]" if self.code else ""
        engines = "" if set(self.on) == set(EVERYWHERE) else f" on {', '.join(self.on)}"
        path = f" {self.path}:" if self.path else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{place}: {self.level}{code}{engines}{less}:{path} {self.message}{hint}"


class KatunaError(Exception):
    exit_code = 1


class InputRefused(KatunaError):
    exit_code = 2


def refuse_all(problems: Iterable[tuple[str, str]]) -> None:
    """Raises InputRefused for what keeps a run from starting, each with its hint or an empty one; nothing where there is none."""
    found = [f"{message} ({hint})" if hint else message for message, hint in problems]
    if found:
        head = [f"{len(found)} things are in the way; nothing was started:"] if len(found) > 1 else []
        raise InputRefused("\n- ".join([*head, *found]))


class SpecRefused(InputRefused):
    """Raised with every finding of the files read, errors and others, in file order."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(str(finding) for finding in self.findings))


class ClusterRefused(KatunaError):
    """`status` is HTTP's, `reason` the API server's word: Forbidden, AlreadyExists, Invalid."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        self.status, self.reason = status, reason
        super().__init__(message)


class ClusterUnreachable(KatunaError):
    """`after_s` is how long the server asks to wait before the next try, 0 where it says nothing."""

    def __init__(self, message: str, after_s: float = 0.0) -> None:
        self.after_s = after_s
        super().__init__(message)


class RenderRefused(InputRefused):
    pass


class RunNotFound(InputRefused):
    pass


class RunLocked(InputRefused):
    pass


class CodeTooLarge(InputRefused):
    pass


class TellFirst(InputRefused):
    """`numbers` are the open trials; more can be asked for when some of them have been told."""

    def __init__(self, message: str, numbers: Sequence[int]) -> None:
        self.numbers = tuple(numbers)
        super().__init__(message)


class JournalDamaged(InputRefused):
    """`line` counts from 1 and is the first line that cannot be trusted."""

    def __init__(self, message: str, line: int) -> None:
        self.line = line
        super().__init__(message)


OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)
OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOLCK)
"""Too many files open (here, or on the whole machine), too many processes, too little memory, too many locks."""
_LIMITS = {errno.EMFILE: ("RLIMIT_NOFILE", "ulimit -n"), errno.EAGAIN: ("RLIMIT_NPROC", "ulimit -u")}


def is_shortage(error: OSError) -> bool:
    """Whether the machine is short of something, or its disk broken: no trial is to blame, and the same one may well run later."""
    return error.errno in OF_THE_DISK or error.errno in OF_THE_MACHINE


class StoreFailed(KatunaError):
    @classmethod
    def of(cls, place: object, error: OSError, run: str, noticed: str = "") -> StoreFailed:
        """What to raise for an error of the system at `place`, in the run named `run`; `noticed` tells how it came to light."""
        how, what, first = noticed, "cannot be written", "make room"
        if error.errno in OF_THE_MACHINE:
            what, first = "cannot go on", "let fewer trials run at a time (`--parallel`)"
        if error.errno in _LIMITS:
            name, command = _LIMITS[error.errno]
            limit = resource.getrlimit(getattr(resource, name))[0]
            how = "; ".join(filter(None, (f"{name} is {'unlimited' if limit == resource.RLIM_INFINITY else limit}", noticed)))
            first = f"raise the limit (`{command}`) or {first}"
        because = f" ({how})" if how else ""
        return cls(
            f"{place}: {what}: {error.strerror}{because}. Everything recorded before is kept; "
            f"{first} and go on with `katuna resume {run}`"
        )


class FilesMixed(KatunaError):
    pass


class SearchExhausted(KatunaError):
    pass


class LaunchFailed(KatunaError):
    pass


class Interrupted(KatunaError):
    """`signum` is the signal that ended the search; the exit code is 128 + signum, as shells have it."""

    def __init__(self, message: str, signum: int) -> None:
        self.signum = signum
        self.exit_code = 128 + signum
        super().__init__(message)
