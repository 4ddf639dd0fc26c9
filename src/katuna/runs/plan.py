"""What a run was asked: the options beside the file, and the plan that both come to, checked before anything is made."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from katuna.cluster.options import ClusterOptions
from katuna.errors import Engine, Finding, InputRefused
from katuna.launch.local_options import LocalOptions
from katuna.lint.documents import walked
from katuna.lint.load import Loaded, Source, load_experiment
from katuna.lint.load_job import LoadedJob, load_job
from katuna.manifest.build import job_from_manifest, name_here
from katuna.manifest.dump import to_yaml
from katuna.manifest.experiment import Experiment, Manifest, training
from katuna.manifest.job import Job
from katuna.manifest.overrides import Overrides
from katuna.manifest.sources import read_source
from katuna.manifest.yamltext import parse
from katuna.search.known_points import UNTAUGHT, Taken, completed
from katuna.search.trials import Assignments, Known

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class RunOptions:
    """What a user may say of a run beside the file; recorded in the journal, so that a resume means the same.

    `keep` is the number of trials whose artefacts stay, the best ones; None keeps all. `algorithm` and `early_stopping` stand for
    the file's ("none" is no early stopping), `settings` and `stopping_settings` for single settings of theirs. With
    `let_running_finish` the trials that still run when the search ends are waited for. `tries` are points to begin with,
    each perhaps of some parameters only.

    Of a training, `name` picks one of several jobs; `nproc` and `changes` (path, value) stand for what its file says; `secrets` are
    the files that hold a Secret: they are not kept in the run folder, and read where they are.
    """

    local: LocalOptions = field(default_factory=LocalOptions)
    keep: int | None = None
    algorithm: str | None = None
    settings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    early_stopping: str | None = None
    stopping_settings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    let_running_finish: bool = False
    tries: tuple[Assignments, ...] = ()
    name: str | None = None
    nproc: str | None = None
    changes: tuple[tuple[str, str], ...] = ()
    secrets: tuple[str, ...] = ()
    cluster: ClusterOptions | None = None
    """Where the jobs run on a cluster; None for this machine."""

    def as_json(self) -> dict[str, Any]:
        return {
            "local": self.local.as_json(),
            "keep": self.keep,
            "algorithm": self.algorithm,
            "settings": dict(self.settings),
            "earlyStopping": self.early_stopping,
            "stoppingSettings": dict(self.stopping_settings),
            "letRunningFinish": self.let_running_finish,
            "tries": [dict(point) for point in self.tries],
            "name": self.name,
            "nproc": self.nproc,
            "changes": [list(pair) for pair in self.changes],
            "secrets": list(self.secrets),
            "cluster": None if self.cluster is None else self.cluster.as_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunOptions:
        """The inverse of `as_json`; what a journal of an earlier version does not say is as it was then."""
        return cls(
            LocalOptions.from_json(data["local"]),
            data["keep"],
            data.get("algorithm"),
            dict(data.get("settings", {})),
            data.get("earlyStopping"),
            dict(data.get("stoppingSettings", {})),
            data.get("letRunningFinish", False),
            tuple(dict(point) for point in data.get("tries", ())),
            data.get("name"),
            data.get("nproc"),
            tuple((path, value) for path, value in data.get("changes", ())),
            tuple(data.get("secrets", ())),
            None if data.get("cluster") is None else ClusterOptions.from_json(data["cluster"]),
        )

    @property
    def engine(self) -> Engine:
        """What runs the jobs."""
        return "local" if self.cluster is None else "cluster"

    @property
    def overrides(self) -> list[str]:
        """What stands in for the file's own words, as the command line says it."""
        said = [f"--algorithm {self.algorithm}"] if self.algorithm else []
        said += [f"--setting {name}={value}" for name, value in self.settings.items()]
        said += [f"--early-stopping {self.early_stopping}"] if self.early_stopping else []
        said += [f"--stopping-setting {name}={value}" for name, value in self.stopping_settings.items()]
        said += ["--let-running-finish"] if self.let_running_finish else []
        said += [f"--nproc {self.nproc}"] if self.nproc else []
        said += [f"--set {path}={value}" for path, value in self.changes]
        return said + ["--try " + ",".join(f"{name}={value}" for name, value in point.items()) for point in self.tries]


@dataclass(frozen=True)
class Plan:
    """A search or a training that can be started: everything checked, nothing written yet.

    `experiment` is the file's with the overrides of `options`, or the training's; `taken` are the results from elsewhere that a search
    begins with.
    """

    sources: tuple[Source, ...]
    loaded: Loaded | LoadedJob
    options: RunOptions
    seed: int
    experiment: Experiment
    taken: tuple[Taken, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        return self.loaded.findings

    @cached_property
    def job(self) -> Job:
        """Of a training."""
        pass_env = self.options.local.pass_env if self.options.cluster is None else None
        return job_from_manifest(self.experiment.manifest, references=self.loaded.references, pass_env=pass_env)

    @property
    def known(self) -> tuple[Known, ...]:
        return tuple(known for each in self.taken for known in each.known)

    @property
    def remarks(self) -> list[str]:
        """What a user is told of the options, a line each."""
        lines = [line for each in self.taken for line in (str(each), *([f"warning: {each.warning}"] if each.warning else []))]
        if self.taken and self.experiment.algorithm in UNTAUGHT:
            lines.append(f"warning: {self.experiment.algorithm} learns nothing from known results; tpe or gp would")
        return lines

    @property
    def tries(self) -> tuple[Assignments, ...]:
        """The points that the search begins with, complete."""
        return completed(self.experiment, self.seed, self.options.tries)


def overridden(experiment: Experiment, options: RunOptions) -> Experiment:
    """The Experiment with the algorithm and the early stopping that the options say. Raises InputRefused for what they cannot be."""
    if options.algorithm is not None or options.settings:
        from katuna.search.choice import with_algorithm

        experiment = with_algorithm(experiment, options.algorithm, options.settings)
    if options.early_stopping is not None or options.stopping_settings:
        from katuna.search.stopping import with_early_stopping

        own = experiment.early_stopping
        name = options.early_stopping or (own.algorithm if own is not None else "")
        if not name:
            raise InputRefused("--stopping-setting: the file asks for no early stopping; say which with --early-stopping NAME")
        kept = own.settings if own is not None and own.algorithm == name else {}
        experiment = with_early_stopping(experiment, name, {**kept, **options.stopping_settings})
    return experiment


def read_experiment(sources: Sequence[Source], options: RunOptions, name: str | None = None) -> tuple[Loaded, Experiment]:
    """The Experiment of the files, checked and made with what the options put in the place of its algorithm and early stopping.

    Raises SpecRefused, and InputRefused for what an option cannot be.
    """
    if options.algorithm is not None:
        from katuna.search.choice import check_name

        check_name(options.algorithm)
    overrides = Overrides(options.algorithm, options.settings, options.early_stopping, options.stopping_settings)
    loaded = load_experiment(sources, name, pass_env=options.local.pass_env, overrides=overrides, engine=options.engine)
    return loaded, overridden(loaded.experiment, options)


# Of a training


def plan_job(paths: Sequence[PathLike], options: RunOptions | None = None, *, as_cluster: bool = False) -> Plan:
    """Reads and checks everything that can be checked before a process starts. `as_cluster` lets fields pass that a cluster drops.

    Raises SpecRefused with all findings of all files, InputRefused for options that the job cannot be run with.
    """
    options = options or RunOptions()
    planned = read_job(read_sources(paths), options, as_cluster=as_cluster)
    secrets = [source for source in planned.sources if holds_secret(source)]
    if any(source.name == planned.loaded.file for source in secrets):
        raise InputRefused(
            f"{planned.loaded.file} holds the job and a Secret: the run folder keeps the job's file as it is, and no Secret; "
            f"move the Secret to a file of its own and give it with --values FILE"
        )
    return replace(planned, options=replace(options, secrets=tuple(str(Path(source.name).absolute()) for source in secrets)))


def read_job(sources: tuple[Source, ...], options: RunOptions, *, as_cluster: bool = False) -> Plan:
    """The job of the files with what the options change in it. Raises as `plan_job` does."""
    loaded = load_job(
        sources,
        options.name,
        pass_env=options.local.pass_env,
        nproc=options.nproc,
        changes=options.changes,
        as_cluster=as_cluster,
        engine=options.engine,
    )
    return Plan(sources, loaded, options, 0, as_training(loaded.manifest))


def as_training(manifest: Manifest) -> Experiment:
    """The training of a job that `load_job` has accepted."""
    metadata = manifest["metadata"]
    return training(manifest, name_here(metadata), str(metadata.get("namespace") or "default"))


def holds_secret(source: Source) -> bool:
    return bool(_documents(source, secrets=True))


def part(source: Source, *, secrets: bool) -> Source | None:
    """A file's Secrets, or all else that is in it; None where there is nothing of that."""
    wanted = _documents(source, secrets=secrets)
    return replace(source, text="---\n".join(map(to_yaml, wanted))) if wanted else None


def _documents(source: Source, *, secrets: bool) -> list[Manifest]:
    return [each for each in manifests(source) if (each.get("kind") == "Secret") == secrets]


def manifests(source: Source) -> list[Manifest]:
    """The documents of a file that was read before, those in lists too."""
    found = (each.value for document in parse(source)[0] for each in walked(document))
    return [value for value in found if isinstance(value, dict)]


def read_sources(paths: Sequence[PathLike]) -> tuple[Source, ...]:
    """The files as text. Raises InputRefused for one that cannot be read."""
    return tuple(map(read_source, paths))
