"""The code of a run: taken when the run begins, taken anew when a resume is told to, and which of them is in force."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from katuna.errors import CodeTooLarge, InputRefused
from katuna.launch.local_options import LocalOptions
from katuna.runs import code, rundir
from katuna.runs.code import Code
from katuna.runs.collect import collect
from katuna.search.trials import Edited, Event, Opened

Which = Literal["kept", "new"]
"""What a resume goes on with: the code that the run has, or today's."""


@dataclass(frozen=True)
class Taken:
    """`digest` is "" where no code is kept, and `why_not` says why; `files` are for the run folder."""

    digest: str
    why_not: str = ""
    files: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))


@contextmanager
def taking(local: LocalOptions, home: Path, secrets: Sequence[str] = ()) -> Iterator[Taken]:
    """The code for a run that is made in `home` meanwhile, its contents on disk. Raises InputRefused where they cannot be written."""
    try:
        found = todays(local, home, secrets)
    except CodeTooLarge as error:
        yield Taken("", str(error))
        return
    with ExitStack() as until_made:
        try:
            code.put(found, until_made.enter_context(code.sharing(home)))
        except OSError as error:
            raise InputRefused(
                f"no run folder can be made in {home}, as its code cannot be kept there: {error.strerror}; make room, or set "
                "KATUNA_HOME to a folder that you may write to"
            ) from error
        yield Taken(found.digest, files={f"code/{found.digest}.json": code.listing(found)})


def todays(local: LocalOptions, home: Path, secrets: Sequence[str] = ()) -> Code:
    """What is code in the folders that processes run in now: no runs, no dataset, no volumes, no files given as secrets.

    Raises CodeTooLarge.
    """
    data = [Path(local.data)] if local.data else []
    volumes = [local.here(folder) for folder in local.claims.values()]
    return collect(local.folders(), [home, rundir.runs_home(), *data, *volumes, *map(Path, secrets)])


def in_force(events: Sequence[Event]) -> str:
    """The digest of the code that processes read, "" for none."""
    taken = (event.code for event in reversed(events) if isinstance(event, Opened | Edited))
    return next(filter(None, taken), "")
