"""Which run, and which trial or replica of it, a person means by `RUN/TRIAL/REPLICA`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from katuna.cli.options import complete_run
from katuna.errors import KatunaError, RunNotFound

if TYPE_CHECKING:
    from katuna.runs.run import Run
    from katuna.runs.rundir import RunDir
    from katuna.search.trials import Trial


@dataclass(frozen=True)
class Target:
    """`trial` is None for a run as a whole, and for a training, whose one trial is the run; `replica` is "" for all."""

    run: Run
    trial: Trial | None = None
    replica: str = ""


def resolve(target: str | None) -> Target:
    """RUN, RUN/TRIAL or RUN/TRIAL/REPLICA, of a training RUN/REPLICA; without one the latest run. A trial is meant by its number, its
    name or a unique part of that. Raises RunNotFound."""
    from katuna.runs.run import Training, opened

    folder, rest = _split(target)
    run = opened(folder)
    if isinstance(run, Training) or not rest:
        return Target(run, None, rest)
    wanted, _, replica = rest.partition("/")
    return Target(run, _trial(run, wanted), replica)


def _split(target: str | None) -> tuple[RunDir, str]:
    """The run, and what stands after it."""
    from katuna.runs.rundir import find

    try:
        return find(target), ""
    except RunNotFound:
        whole, slash, rest = (target or "").rpartition("/")
        while slash:
            with contextlib.suppress(RunNotFound):
                return find(whole), rest
            whole, slash, last = whole.rpartition("/")
            rest = f"{last}/{rest}"
        raise


def _trial(run: Run, wanted: str) -> Trial:
    if wanted.isdecimal() and int(wanted) in run.search.trials:
        return run.search.trials[int(wanted)]
    matches = [trial for trial in run.trials if wanted in trial.name]
    if len(matches) != 1:
        count = "no trial" if not matches else "more than one trial"
        raise RunNotFound(f"{count} of {run.name} fits {wanted!r}; `katuna trials {run.name}` lists them")
    return matches[0]


def complete_target(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Runs, and behind a slash what a run has logs of."""
    found = complete_run(ctx, param, incomplete)
    for run in (incomplete[:place] for place, char in enumerate(incomplete) if char == "/"):
        found += [name for name in (f"{run}/{each}" for each in names(run)) if name.startswith(incomplete)]
    return found


def names(run: str, *, trainings_only: bool = False) -> Iterable[str]:
    """Of a training its containers' labels, of a search its trials; nothing where there is no such run, or none that can be read."""
    from katuna.runs.rundir import find

    with contextlib.suppress(KatunaError, OSError):
        folder = find(run)
        if folder.is_training:
            from katuna.cli.replicas import logs_of
            from katuna.runs.run import Training

            return [log.label for log in logs_of(Training(folder).job, folder.path)]
        if not trainings_only:
            return asked(folder).values()
    return ()


def asked(folder: RunDir) -> dict[int, str]:
    """Number and name of every trial, from the journal alone."""
    from katuna.runs.journal import read
    from katuna.search.trials import Asked

    return {event.number: event.name for event, _ in read(folder.journal) if isinstance(event, Asked)}
