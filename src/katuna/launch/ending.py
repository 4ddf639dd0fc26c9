"""How a trial ended, in a CamelCase word and a sentence for a person, from what its guard said."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from katuna.log import last_lines

_LONGEST = 1 << 16
"""Characters of a log's end that are looked through."""
_PORT_TAKEN = re.compile(r"address already in use|EADDRINUSE|\berrno:? ?98\b", re.IGNORECASE)
_SHARED_PORTS = (
    "; it asked for a port that is in use: trials and other programs on one machine share its ports, and on a cluster each pod has its "
    "own; let the trainer take port 0 or another free one, or run one trial at a time (parallelTrialCount: 1, resume --parallel 1)"
)


@dataclass(frozen=True)
class Ending:
    """The fields of an Exited that tell what happened; `code` is None when nothing was executed."""

    code: int | None
    reason: str
    message: str = ""

    @property
    def is_failure(self) -> bool:
        """Whether the job's own restart rules apply."""
        return self.reason in ("Error", "GuardLost")


def ending(said: Mapping[str, Mapping[str, Any]], argv: Sequence[str], log: Path, start: int, *, hides: bool = False) -> Ending:
    """`said` holds the guard's messages by event; without `exited` or `failed` the guard itself was killed, and the trial with it.

    `start` is where this attempt begins in the log. `hides`: what the interpreter or the shell says of its command may be a Secret's.
    """
    if "failed" in said:
        what = {
            "files": "it cannot have files of its own (--shared-files lets it do without)",
            "chdir": "its working folder cannot be entered",
        }.get(said["failed"]["stage"], f"command {argv[0]!r} cannot be run")
        return Ending(None, "StartError", f"{what}: {os.strerror(said['failed']['errno'])}")
    lines = None if hides else last_lines(log, start)
    if "exited" not in said:
        return Ending(128 + signal.SIGKILL, "GuardLost", _with_log("its guard was killed, and the trial with it", lines))
    return _exit(said["exited"], lines, log, start)


def _exit(end: Mapping[str, Any], lines: Sequence[str] | None, log: Path, start: int) -> Ending:
    code = int(end["code"])
    left = ""
    if end["left"] and not end["cause"]:
        many = end["left"] > 1
        left = f"; {end['left']} process{'es' if many else ''} that outlived it {'were' if many else 'was'} ended"
    if end["cause"] == "stop":
        return Ending(code, "Stopped", "stopped")
    if end["cause"] == "deadline":
        # Past its deadline a job has failed, whatever its process says on the way out.
        return Ending(
            code or 128 + signal.SIGTERM, "DeadlineExceeded", _with_log("it ran longer than activeDeadlineSeconds", lines)
        )
    if end["cause"]:
        return Ending(code, "GuardLost", _with_log("its guard lost katuna and ended it", lines))
    if code == 0:
        return Ending(0, "Completed", left.removeprefix("; "))
    how = _how(code, end["signal"], bool(end["core"])) + left + _taken_port(log, start)
    return Ending(code, "Error", _with_log(how, lines))


def _taken_port(log: Path, start: int) -> str:
    """A sentence for a program that did not get its port, which may have said so long before it ended; "" for another."""
    said = any(map(_PORT_TAKEN.search, last_lines(log, start, count=_LONGEST, width=_LONGEST)))
    return _SHARED_PORTS if said else ""


def _how(code: int, number: int, core: bool) -> str:
    if number:
        hint = "; perhaps out of memory" if number == signal.SIGKILL else "; core dumped" if core else ""
        return f"it was killed by {_name(number)} (signal {number}){hint}"
    shell = f" (a process of it was killed by {_name(code - 128)}, perhaps)" if 128 < code <= 128 + signal.NSIG else ""
    return f"it exited with code {code}{shell}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _with_log(message: str, lines: Sequence[str] | None) -> str:
    if lines is None:
        return f"{message}; its log is not quoted, as a Secret is part of its command"
    return f"{message}; its log ends: {' | '.join(map(str.strip, lines))}" if lines else f"{message}; its log is empty"
