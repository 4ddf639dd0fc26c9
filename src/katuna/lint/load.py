"""From files to one checked Experiment, or to all there is to say about them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path as File

from katuna.errors import Engine, Finding, SpecRefused
from katuna.lint.documents import Documents, name_of
from katuna.lint.experiment import check, known_documents
from katuna.lint.local_reads import local_reads
from katuna.lint.shell import ReadScript
from katuna.manifest.experiment import Experiment, Manifest
from katuna.manifest.fields import API_SERVER, examine
from katuna.manifest.overrides import Overrides, own_seed
from katuna.manifest.yamltext import Document, Source

__all__ = ["Loaded", "Source", "lint", "load_experiment", "read_script"]

MAX_SCRIPT = 1_000_000
"""Bytes of a trainer's script that are looked at."""


def read_script(path: str) -> str | None:
    """The text of a file below the current folder (or wherever an absolute path leads), None when there is none to read."""
    try:
        with File(path).open("rb") as file:
            return file.read(MAX_SCRIPT).decode(errors="replace")
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class Loaded:
    """`findings` are notes, warnings, and errors that hold on other engines only. `references` are the ConfigMaps and training
    runtimes given beside the Experiment. `file` names the source that holds it, `seed` is the file's own `random_state`."""

    experiment: Experiment
    findings: tuple[Finding, ...]
    references: tuple[Manifest, ...]
    file: str
    seed: int | None = None


def load_experiment(
    sources: Sequence[Source],
    name: str | None = None,
    pass_env: Collection[str] = (),
    read_script: ReadScript = read_script,
    overrides: Overrides | None = None,
    engine: Engine = "local",
) -> Loaded:
    """The Experiment of the files, or the one called `name` of several. `pass_env` names variables that the run will take from
    the calling shell: they stand in for Secrets. `read_script` reads what trials' commands run, to see which metrics it prints.
    `overrides` stand in for the algorithm and the early stopping of the file: the file's own are not checked, and findings for Katib
    alone are left out.

    Raises SpecRefused, with every finding of every file in file order, when any is an error for `engine`, which is to run the trials.
    """
    documents = Documents(sources)
    chosen = [document for document in documents.experiments if name is None or name_of(document) == name]
    findings = [
        *documents.findings,
        *documents.check_jobs(pass_env),
        *documents.check_others(),
        *documents.check_doubles(),
        *documents.check_choice(chosen, name),
    ]
    experiment: Experiment | None = None
    for document in chosen:
        experiment, found = _checked(document, documents, pass_env, read_script, overrides or Overrides())
        findings += found
    findings = documents.ordered(once(findings))
    if experiment is None or any(finding.level == "error" and engine in finding.on for finding in findings):
        raise SpecRefused(findings)
    return Loaded(experiment, tuple(findings), tuple(known_documents(documents.for_trials)), chosen[0].file, own_seed(chosen[0]))


def _checked(
    document: Document, documents: Documents, pass_env: Collection[str], read_script: ReadScript, overrides: Overrides
) -> tuple[Experiment | None, list[Finding]]:
    """As `check`, with the overrides, of which no finding speaks to Katib: it runs the file as it is."""
    experiment, found = check(overrides.applied(document), documents.for_trials, pass_env, read_script)
    if overrides == Overrides():
        return experiment, found
    return experiment, [overrides.attributed(each) for each in found if "local" in each.on]


def lint(
    sources: Sequence[Source],
    pass_env: Collection[str] = (),
    read_script: ReadScript = read_script,
    folder: File | None = None,
) -> tuple[Finding, ...]:
    """Every finding of the files, for every engine: any number of Experiments, and of jobs and what they refer to. `folder` is where
    they would run on this machine: what they read there, and no image has, is looked for where one is given. Raises nothing for bad
    content."""
    documents = Documents(sources)
    findings = [
        *documents.findings,
        *documents.check_jobs(pass_env),
        *documents.check_others(),
        *documents.check_doubles(),
    ]
    if folder is not None:
        findings += _job_reads(documents, folder)
    for document in documents.experiments:
        findings += check(document, documents.for_trials, pass_env, read_script, folder)[1]
    return tuple(documents.ordered(once(findings)))


def _job_reads(documents: Documents, folder: File) -> Iterator[Finding]:
    beside = documents.known_beside()
    for document in documents.jobs:
        yield from map(document.finding, local_reads(examine(document.value, reader=API_SERVER).known, beside, folder))


def once(findings: Sequence[Finding]) -> list[Finding]:
    """Without the wrong types of values that could not be read in the first place."""
    unread = {(each.file, each.line, each.column) for each in findings if each.code == "not-yaml"}
    return [each for each in findings if each.code != "wrong-type" or (each.file, each.line, each.column) not in unread]
