"""A run, read: what it was started with, and the search as its journal tells it, for whoever shows it or goes on with it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from katuna.errors import Finding, InputRefused
from katuna.launch.options import LocalOptions
from katuna.spec.load import Loaded, Source, load_experiment
from katuna.spec.model import Experiment
from katuna.spec.render import render
from katuna.store import journal, rundir
from katuna.store.rundir import RunDir
from katuna.trials import Event, Opened, Search, Trial, fold

if TYPE_CHECKING:
    import pandas

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class RunOptions:
    """What a user may say of a run beside the file; recorded in the journal, so that a resume means the same.

    `keep` is the number of trials whose artefacts stay, the best ones; None keeps all.
    """

    local: LocalOptions = field(default_factory=LocalOptions)
    keep: int | None = None

    def as_json(self) -> dict[str, Any]:
        return {"local": self.local.as_json(), "keep": self.keep}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunOptions:
        """The inverse of `as_json`."""
        return cls(LocalOptions.from_json(data["local"]), data["keep"])


@dataclass(frozen=True)
class Plan:
    """A search that can be started: everything checked, nothing written yet."""

    sources: tuple[Source, ...]
    loaded: Loaded
    options: RunOptions
    seed: int

    @property
    def experiment(self) -> Experiment:
        return self.loaded.experiment

    @property
    def findings(self) -> tuple[Finding, ...]:
        return self.loaded.findings


def read_sources(paths: Sequence[PathLike]) -> tuple[Source, ...]:
    """The files as text. Raises InputRefused for one that cannot be read."""
    sources = []
    for path in map(Path, paths):
        try:
            sources.append(Source(str(path), path.read_bytes().decode()))
        except UnicodeDecodeError as error:
            raise InputRefused(f"{path}: not UTF-8 text (byte {error.start}); is it a manifest?") from error
        except OSError as error:
            raise InputRefused(f"{path}: {error.strerror or error}") from error
    return tuple(sources)


def load(run: str | None = None, *, home: PathLike | None = None) -> Run:
    """A run by its name, a unique prefix of it or its path; without one the latest. Raises RunNotFound."""
    return Run(rundir.find(run, None if home is None else Path(home)))


class Run:
    """A run folder, read: the Experiment as it was run and the search as its journal tells it when first asked.

    Make a new one to see what has happened since.
    """

    def __init__(self, folder: RunDir) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        return f"Run({str(self.folder.path)!r})"

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def path(self) -> Path:
        return self.folder.path

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """The journal. Raises JournalDamaged."""
        return tuple(event for event, _ in journal.read(self.folder.journal))

    @property
    def opened(self) -> Opened:
        """Raises InputRefused for a journal without its first event, which katuna does not leave."""
        first = self.events[0] if self.events else None
        if not isinstance(first, Opened):
            raise InputRefused(
                f"{self.folder.journal} does not begin as a journal does; start the search anew with `katuna tune`"
            )
        return first

    @property
    def options(self) -> RunOptions:
        """Raises InputRefused for what another version of katuna wrote and this one cannot read."""
        try:
            return RunOptions.from_json(self.opened.options)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputRefused(f"{self.folder.journal}, line 1: the options of another version of katuna ({error})") from error

    @cached_property
    def plan(self) -> Plan:
        """What the run was started with. Raises InputRefused when its files are gone or no longer read, as after an edit by hand."""
        sources = read_sources(self.folder.sources)
        loaded = load_experiment(sources, self.opened.experiment, pass_env=self.options.local.pass_env)
        return Plan(sources, loaded, self.options, self.opened.seed)

    @property
    def experiment(self) -> Experiment:
        return self.plan.experiment

    @cached_property
    def search(self) -> Search:
        return fold(self.events, self.experiment.objective)

    @property
    def trials(self) -> list[Trial]:
        return list(self.search.trials.values())

    @property
    def best(self) -> Trial | None:
        """The trial with the best objective value so far; None while there is none."""
        return self.search.best

    @property
    def state(self) -> str:
        """Running, Interrupted (it can be resumed), Succeeded or Failed."""
        if self.search.ended is not None:
            return "Succeeded" if self.search.ended.succeeded else "Failed"
        return "Running" if self.folder.holder() is not None else "Interrupted"

    def command(self, trial: Trial) -> str:
        """One shell line that runs a trial's command again: its arguments, the variables that the file sets, in the same folder.

        What came from the calling shell (`--pass-env`) is not in it; the shell that runs the line has to have it. Nor are the
        variables of a distributed job: the line is one process.
        """
        from katuna.launch.command import command
        from katuna.spec.job import MASTER_PORT, job_from_manifest

        manifest = render(self.experiment, trial.name, trial.assignments)
        job = job_from_manifest(manifest, self.experiment.template.primary_container, self.plan.loaded.config_maps, trial.name)
        replica = job.replicas[0]
        here = command(job, replica, self.options.local, {}, port=MASTER_PORT, defaults={}, extra={})
        words = [f"{name}={here.env[name]}" for name in dict(replica.container.env)]
        line = " ".join(map(_shell_word, [*(["env", *words] if words else []), *here.argv]))
        return f"cd {_shell_word(str(here.folder))} && {line}"

    def to_dataframe(self) -> pandas.DataFrame:
        """One row a trial; see `katuna.report.tables.to_dataframe` for the columns."""
        from katuna.report.tables import to_dataframe

        return to_dataframe(self.experiment, self.search)


def _shell_word(word: str) -> str:
    """The word quoted for bash, zsh or ksh, on one line and without anything that a terminal would obey."""
    if word.isprintable():
        return shlex.quote(word)
    escaped = "".join(char if char.isprintable() and char not in "\\'" else _escaped(char) for char in word)
    return f"$'{escaped}'"


def _escaped(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
