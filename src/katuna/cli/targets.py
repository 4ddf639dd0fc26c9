"""Which run, and which trial or replica of it, a person means by `RUN/TRIAL`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from katuna.cli.options import complete_run
from katuna.errors import KatunaError, RunNotFound

if TYPE_CHECKING:
    from katuna.runs.run import Run
    from katuna.runs.rundir import RunDir
    from katuna.runs.training import Training
    from katuna.search.trials import Trial


def complete_target(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Runs, and behind a slash what a run has logs of."""
    found = complete_run(ctx, param, incomplete)
    for run in (incomplete[:place] for place, char in enumerate(incomplete) if char == "/"):
        found += [name for name in (f"{run}/{each}" for each in names(run)) if name.startswith(incomplete)]
    return found


def names(run: str, *, jobs_only: bool = False) -> Iterable[str]:
    """Of a job its containers' labels, of a search its trials; nothing where there is no such run, or none that can be read."""
    from katuna.runs.rundir import find

    with contextlib.suppress(KatunaError, OSError):
        folder = find(run)
        if folder.is_job:
            from katuna.cli.replicas import logs_of
            from katuna.runs.training import Training

            return [log.label for log in logs_of(Training(folder))]
        if not jobs_only:
            return asked(folder).values()
    return ()


def resolve(target: str | None) -> tuple[Run, Trial | None]:
    """A run, or one trial of it by its number, its name or a unique part of that. Raises RunNotFound."""
    from katuna.runs.run import Run
    from katuna.runs.rundir import find

    try:
        return Run(find(target)), None
    except RunNotFound:
        name, slash, wanted = (target or "").rpartition("/")
        if not slash:
            raise
    run = Run(find(name))
    if wanted.isdecimal() and int(wanted) in run.search.trials:
        return run, run.search.trials[int(wanted)]
    matches = [trial for trial in run.trials if wanted in trial.name]
    if len(matches) != 1:
        count = "no trial" if not matches else "more than one trial"
        raise RunNotFound(f"{count} of {run.name} fits {wanted!r}; `katuna trials {run.name}` lists them")
    return run, matches[0]


def split_job(target: str) -> tuple[Training, str] | None:
    """The job that is meant, and what of it; None for what is no job."""
    from katuna.runs.rundir import find

    whole, rest = target, ""
    while True:
        try:
            folder = find(whole)
        except RunNotFound:
            whole, slash, last = whole.rpartition("/")
            if not slash:
                return None
            rest = f"{last}/{rest}" if rest else last
        else:
            break
    if not folder.is_job:
        return None
    from katuna.runs.training import Training

    return Training(folder), rest


def job_of(target: str | None) -> Training | None:
    """The job that is meant; None for what is no job's run as a whole."""
    if target is None:
        from katuna.runs.rundir import find
        from katuna.runs.training import Training

        folder = find(None)
        return Training(folder) if folder.is_job else None
    found = split_job(target)
    if found and found[1]:
        raise RunNotFound(
            f"{target}: {found[0].name} is the run of a job, which has no trials; `katuna show {found[0].name}` shows it"
        )
    return found[0] if found else None


def asked(folder: RunDir) -> dict[int, str]:
    """Number and name of every trial, from the journal alone."""
    from katuna.runs.journal import read
    from katuna.search.trials import Asked

    return {event.number: event.name for event, _ in read(folder.journal) if isinstance(event, Asked)}
