"""From files to one checked Experiment, or to all there is to say about them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path as File

from katuna.errors import Finding, SpecRefused
from katuna.spec.check import check, known_config_maps
from katuna.spec.documents import Documents, name_of
from katuna.spec.model import Experiment, Manifest
from katuna.spec.shell import ReadScript
from katuna.spec.yamltext import Source

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
    """`findings` are notes, warnings, and errors that hold on other engines only. `config_maps` are the ConfigMap documents given beside the Experiment. `file` names the
    source that holds it."""

    experiment: Experiment
    findings: tuple[Finding, ...]
    config_maps: tuple[Manifest, ...]
    file: str


def load_experiment(
    sources: Sequence[Source],
    name: str | None = None,
    pass_env: Collection[str] = (),
    read_script: ReadScript = read_script,
) -> Loaded:
    """The Experiment of the files, or the one called `name` of several. `pass_env` names variables that the run will take from
    the calling shell: they stand in for Secrets. `read_script` reads what trials' commands run, to see which metrics it prints.

    Raises SpecRefused, with every finding of every file in file order, when any is an error for a run on this machine.
    """
    documents = Documents(sources)
    chosen = [document for document in documents.experiments if name is None or name_of(document) == name]
    findings = [
        *documents.findings,
        *documents.check_others(pass_env),
        *documents.check_doubles(),
        *documents.check_choice(chosen, name),
    ]
    experiment: Experiment | None = None
    for document in chosen:
        experiment, found = check(document, documents.config_maps, pass_env, read_script)
        findings += found
    findings = documents.ordered(findings)
    if experiment is None or any(finding.level == "error" and "local" in finding.on for finding in findings):
        raise SpecRefused(findings)
    return Loaded(experiment, tuple(findings), tuple(known_config_maps(documents.config_maps)), chosen[0].file)


def lint(sources: Sequence[Source], pass_env: Collection[str] = (), read_script: ReadScript = read_script) -> tuple[Finding, ...]:
    """Every finding of the files, for every engine: any number of Experiments, and of Jobs, PyTorchJobs and ConfigMaps alone. Raises nothing for
    bad content."""
    documents = Documents(sources)
    findings = [*documents.findings, *documents.check_others(pass_env), *documents.check_doubles()]
    for document in documents.experiments:
        findings += check(document, documents.config_maps, pass_env, read_script)[1]
    return tuple(documents.ordered(findings))
