"""From files to one checked job that runs without a search, or to all there is to say about it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from katuna.errors import Engine, Finding, SpecRefused
from katuna.lint.documents import Documents, name_of
from katuna.lint.job_rules import check_alone
from katuna.lint.load import once
from katuna.manifest.edit import edited_manifest
from katuna.manifest.experiment import Manifest
from katuna.manifest.fields import API_SERVER, examine
from katuna.manifest.yamltext import Source


@dataclass(frozen=True)
class LoadedJob:
    """`manifest` is the job as it is to run, with the changes that were asked for; `file` names the source that holds it. `findings`
    are notes, warnings, and errors on other engines. `references` are the ConfigMaps, Secrets and runtimes given with it: a Secret's values
    are for its processes alone."""

    manifest: Manifest
    kind: str
    findings: tuple[Finding, ...]
    file: str
    references: tuple[Manifest, ...] = field(default=(), repr=False)
    seed: None = None


def load_job(
    sources: Sequence[Source],
    name: str | None = None,
    *,
    pass_env: Collection[str] = (),
    nproc: str | None = None,
    changes: Sequence[tuple[str, str]] = (),
    as_cluster: bool = False,
    engine: Engine = "local",
) -> LoadedJob:
    """The Job, PyTorchJob or TrainJob of the files, or the one called `name` of several, with what it refers to from any of them.
    `pass_env` names variables that the run will take from the calling shell. `changes` are as in `edited_manifest`; they are put in
    before anything is checked. `as_cluster` is for seeing what a cluster would make of the files: it drops fields that it does not
    know, which refuses nothing then.

    Raises InputRefused for a change that cannot be made, SpecRefused with every finding in file order when any is an error for `engine`,
    which is to run the job.
    """
    documents = Documents(sources)
    chosen = [document for document in documents.jobs if name is None or name_of(document) == name]
    findings = [*documents.findings, *documents.check_others(), *documents.check_job_choice(chosen, name)]
    beside = tuple(documents.known_beside())
    edited = [replace(each, value=edited_manifest(each.value, changes, nproc)) for each in chosen[:1]]
    for document in edited:
        findings += map(document.finding, check_alone(document.value, beside, pass_env))
    if as_cluster:
        # What is left without them may lack something.
        edited = [replace(each, value=examine(each.value, reader=API_SERVER).known) for each in edited]
        for document in edited:
            findings += map(document.finding, check_alone(document.value, beside, pass_env))
    findings = documents.ordered(once(findings))
    dropped = ("unknown-field",) if as_cluster else ()
    errors = (each for each in findings if each.level == "error" and engine in each.on and each.code not in dropped)
    if not edited or any(errors):
        raise SpecRefused(findings)
    return LoadedJob(edited[0].value, edited[0].value["kind"], tuple(findings), edited[0].file, beside)
