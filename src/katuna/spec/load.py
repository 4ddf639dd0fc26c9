"""From files to one checked Experiment, or to all there is to say about them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from katuna.errors import Finding, SpecRefused
from katuna.spec.check import check, known_config_maps
from katuna.spec.documents import Documents, name_of
from katuna.spec.model import Experiment, Manifest
from katuna.spec.yamltext import Source

__all__ = ["Loaded", "Source", "lint", "load_experiment"]


@dataclass(frozen=True)
class Loaded:
    """`findings` are notes and warnings. `config_maps` are the ConfigMap documents given beside the Experiment. `file` names the
    source that holds it."""

    experiment: Experiment
    findings: tuple[Finding, ...]
    config_maps: tuple[Manifest, ...]
    file: str


def load_experiment(sources: Sequence[Source], name: str | None = None, pass_env: Collection[str] = ()) -> Loaded:
    """The Experiment of the files, or the one called `name` of several. `pass_env` names variables that the run will take from
    the calling shell: they stand in for Secrets.

    Raises SpecRefused, with every finding of every file in file order, when any is an error.
    """
    documents = Documents(sources)
    chosen = [document for document in documents.experiments if name is None or name_of(document) == name]
    findings = [*documents.findings, *documents.check_others(), *documents.check_doubles(), *documents.check_choice(chosen, name)]
    experiment: Experiment | None = None
    for document in chosen:
        experiment, found = check(document, documents.config_maps, pass_env)
        findings += found
    findings = documents.ordered(findings)
    if experiment is None or any(finding.level == "error" and "local" in finding.on for finding in findings):
        raise SpecRefused(findings)
    return Loaded(experiment, tuple(findings), tuple(known_config_maps(documents.config_maps)), chosen[0].file)


def lint(sources: Sequence[Source], pass_env: Collection[str] = ()) -> tuple[Finding, ...]:
    """Every finding of the files: any number of Experiments, and of Jobs, PyTorchJobs and ConfigMaps alone. Raises nothing for
    bad content."""
    documents = Documents(sources)
    findings = [*documents.findings, *documents.check_others(), *documents.check_doubles()]
    for document in documents.experiments:
        findings += check(document, documents.config_maps, pass_env)[1]
    return tuple(documents.ordered(findings))
