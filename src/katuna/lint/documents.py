"""What the documents of several files are: Experiments, jobs, what these refer to, and what katuna has no use for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from katuna.errors import KATUNA, LOCAL, Finding
from katuna.lint.job_rules import KINDS_HERE, check_alone
from katuna.manifest.defaults import EXPERIMENT
from katuna.manifest.diagnostic import Path, Remark, did_you_mean, listed, shown
from katuna.manifest.experiment import Manifest
from katuna.manifest.fields import API_SERVER, examine, kinds
from katuna.manifest.references import REFERENCE_KINDS, check_held
from katuna.manifest.yamltext import Document, Position, Source, parse

NAME: Path = ("metadata", "name")
LISTS: Mapping[tuple[str, str], Mapping[str, str]] = {("v1", "List"): {}} | {
    (api, f"{kind}List"): {"apiVersion": api, "kind": kind}
    for api, kind in (("kubeflow.org/v1beta1", "Experiment"), *KINDS_HERE, *REFERENCE_KINDS)
}
"""Objects that hold others, as `kubectl get -o yaml` writes them, and what their items need not say."""


def name_of(document: Document) -> str:
    """As a run here has it, a generated name without what the API server would add."""
    return _metadata(document, "name", "") or _metadata(document, "generateName", "").rstrip("-.")


def _metadata(document: Document, field: str, default: str) -> str:
    metadata = document.value.get("metadata")
    return str(metadata.get(field) or default) if isinstance(metadata, dict) else default


class Documents:
    """The documents by what they are; `findings` are those of reading them."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._order = {source.name: number for number, source in reversed(list(enumerate(sources)))}
        self.findings: list[Finding] = []
        self.experiments: list[Document] = []
        self.jobs: list[Document] = []
        self.beside: list[Document] = []
        self.others: list[Document] = []
        if not sources:
            self.findings.append(Finding("", 0, 0, "", "no file was given", hint="name one or more YAML files", code="no-file"))
        for source in sources:
            documents, findings = parse(source)
            self.findings += findings
            for document in documents:
                for each in walked(document):
                    self._sort(each)

    def _sort(self, document: Document) -> None:
        """Into what it is."""
        value = document.value
        if not isinstance(value, dict):
            remark = Remark(
                (),
                f"a manifest must be a mapping, not {_kind_of(value)}",
                "it begins with apiVersion and kind",
                code="not-a-manifest",
            )
            self.findings.append(document.finding(remark))
            return
        missing = [name for name in ("apiVersion", "kind") if not isinstance(value.get(name), str) or not value[name]]
        if missing:
            self.findings += [
                document.finding(Remark((name,), "must be specified, as text", code="missing-field")) for name in missing
            ]
        elif (value["apiVersion"], value["kind"]) in LISTS:
            message = f"must be a list, not {_kind_of(value['items'])}"
            self.findings.append(document.finding(Remark(("items",), message, code="wrong-type")))
        elif f"{value['apiVersion']} {value['kind']}" == EXPERIMENT:
            self.experiments.append(document)
        elif (value["apiVersion"], value["kind"]) in REFERENCE_KINDS:
            self.beside.append(document)
        elif (value["apiVersion"], value["kind"]) in KINDS_HERE:
            self.jobs.append(document)
        else:
            self.others.append(document)

    @property
    def for_trials(self) -> list[Document]:
        """What trials may refer to: a search would have to keep a Secret."""
        return [document for document in self.beside if document.value["kind"] != "Secret"]

    def known_beside(self) -> list[Manifest]:
        """What jobs may refer to, without what is wrong in it."""
        return [examine(document.value).known for document in self.beside]

    def check_jobs(self, pass_env: Collection[str] = ()) -> Iterator[Finding]:
        """All rules on the jobs that stand alone."""
        for document in self.jobs:
            yield from map(document.finding, check_alone(document.value, self.known_beside(), pass_env))

    def check_others(self) -> Iterator[Finding]:
        """What jobs refer to: its fields. Of what is neither a job nor an Experiment a note, or an error where one was meant."""
        for document in chain(self.beside, self.others):
            value = document.value
            remarks: Iterable[Remark] = [_foreign(value)]
            if value["kind"] == "Secret" and self.experiments:
                remarks = [_SECRET_BESIDE]
            elif (value["apiVersion"], value["kind"]) in REFERENCE_KINDS:
                remarks = examine(value, reader=API_SERVER).remarks
                remarks = [*remarks, *(check_held(value) if value["kind"] in ("ConfigMap", "Secret") else ())]
            yield from map(document.finding, _once(remarks))

    def check_choice(self, chosen: Sequence[Document], name: str | None) -> Iterator[Finding]:
        """That one Experiment is left to run."""
        names = [name_of(document) for document in self.experiments]
        wrong = any(finding.level == "error" for finding in chain(self.findings, self.check_jobs(), self.check_others()))
        if not self.experiments and not wrong:
            first = next(iter(self._order), "")
            hint = "katuna train runs a job" if self.jobs else "apiVersion: kubeflow.org/v1beta1, kind: Experiment"
            yield Finding(first, 0, 0, "", "there is no Experiment", hint=hint, code="no-experiment")
        elif self.experiments and not chosen:
            message = f"there is no Experiment named {shown(name)}"
            yield Finding(self.experiments[0].file, 0, 0, "", message, hint=f"there are: {listed(names)}", code="no-experiment")
        if name is None and len(set(names)) > 1:
            message = f"several Experiments are given: {listed(names)}"
            yield self.experiments[1].finding(Remark(NAME, message, "--experiment NAME picks one", code="several-experiments"))
        # A run takes one of each name, wherever the others stand.
        yield from _doubles(chosen, lambda _: "")
        yield from _doubles(self.beside, lambda document: (document.value["kind"], _namespace(document)))

    def check_job_choice(self, chosen: Sequence[Document], name: str | None) -> Iterator[Finding]:
        """That one job is left to run by itself."""
        names = [name_of(document) for document in self.jobs]
        wrong = any(finding.level == "error" for finding in chain(self.findings, self.check_others()))
        first = next(iter(self._order), "")
        if not self.jobs and not wrong:
            hint = f"kinds that run alone: {listed(kind for _, kind in KINDS_HERE)}"
            hint = "katuna tune runs an Experiment" if self.experiments else hint
            yield Finding(first, 0, 0, "", "there is no job", hint=hint, code="no-job")
        elif self.jobs and not chosen:
            yield Finding(
                first, 0, 0, "", f"there is no job named {shown(name)}", hint=f"there are: {listed(names)}", code="no-job"
            )
        elif len(chosen) > 1:
            hint = "--name JOB picks one" if name is None else "give one another name"
            yield chosen[1].finding(Remark(NAME, f"several jobs are given: {listed(names)}", hint, code="several-jobs"))
        yield from _doubles(self.beside, lambda document: (document.value["kind"], _namespace(document)))

    def check_doubles(self) -> Iterator[Finding]:
        """Two Experiments of one name in a file, jobs or ConfigMaps: which of them a cluster keeps depends on the order of sending."""
        yield from _doubles(
            (*self.experiments, *self.jobs, *self.beside),
            lambda document: (document.file, document.value["kind"], _namespace(document)),
        )

    def ordered(self, findings: Iterable[Finding]) -> list[Finding]:
        """Without repetitions, by file as given, then by line."""
        return sorted(dict.fromkeys(findings), key=lambda each: (self._order.get(each.file, 0), each.line, each.column))


def _namespace(document: Document) -> str:
    return _metadata(document, "namespace", "default")


def _doubles(documents: Iterable[Document], scope: Callable[[Document], object]) -> Iterator[Finding]:
    """Every document after the first of its name in one scope."""
    first: dict[object, Document] = {}
    for document in documents:
        name = name_of(document)
        there = first.setdefault((scope(document), name), document)
        if name and there is not document:
            kind = document.value["kind"]
            message = f"a second {kind} is named {shown(name)}; the first is at {there.file}:{there.place(NAME)[0]}"
            yield document.finding(Remark(NAME, message, "give it another name", code="repeated-name"))


def walked(document: Document) -> Iterator[Document]:
    """The document, or of a list all that is in it, however deep, each with paths from its own top and the places that it has in the
    file. Whoever reads, checks or keeps what files hold goes through here. A list whose items are no list comes as it is."""
    value = document.value
    unsaid = LISTS.get((_word(value, "apiVersion"), _word(value, "kind"))) if isinstance(value, dict) else None
    if unsaid is None or not isinstance(value.get("items") or [], list):
        yield document
        return
    places, keys = _by_item(document.places), _by_item(document.keys)
    for index, item in enumerate(value.get("items") or []):
        whole = {**unsaid, **item} if isinstance(item, dict) else item
        yield from walked(replace(document, value=whole, places=places.get(index, {}), keys=keys.get(index, {})))


def _word(value: Mapping[str, Any], field: str) -> str:
    found = value.get(field)
    return found if isinstance(found, str) else ""


def _kind_of(value: Any) -> str:
    """Without what is in it: it may be a Secret's."""
    return (
        "text"
        if isinstance(value, str)
        else "a list"
        if isinstance(value, list)
        else "a mapping"
        if isinstance(value, dict)
        else "a number or a word"
    )


def _by_item(table: Mapping[Path, Position]) -> dict[str | int, dict[Path, Position]]:
    parts: dict[str | int, dict[Path, Position]] = {}
    for path, place in table.items():
        if len(path) > 1 and path[0] == "items":
            parts.setdefault(path[1], {})[path[2:]] = place
    return parts


_SECRET_BESIDE = Remark(
    ("kind",),
    "the run folder keeps the files that a search was started from, and must not keep a Secret",
    "leave it out of the files and give trials its values by --pass-env NAME",
    on=KATUNA,
    code="secret-beside",
)


def _once(remarks: Iterable[Remark]) -> Iterator[Remark]:
    """The first remark on each field: two readers may have looked at it."""
    seen: set[tuple[Path, str]] = set()
    for remark in remarks:
        if (remark.path, remark.code) not in seen or remark.level != "error":
            yield remark
        seen.add((remark.path, remark.code))


def _foreign(value: Mapping[str, Any]) -> Remark:
    """A kind that katuna has no use for. One that is nearly an Experiment's is an error, so that a typo is not passed over."""
    version, kind = value["apiVersion"], value["kind"]
    near = {name: api for api, name in kinds() if _near_group(version, api)}
    if kind in near:
        message = f"{shown(version)} has no kind {kind}"
        return Remark(("apiVersion",), message, f"write {near[kind]}", code="unknown-kind")
    meant = did_you_mean(kind, near)
    if meant:
        message = f"the kind {shown(kind)} of {version} is not known"
        return Remark(("kind",), message, f"did you mean {meant}?", code="unknown-kind")
    return Remark(("kind",), f"a {kind} is ignored here", level="note", on=LOCAL, code="ignored-object")


def _near_group(version: str, right: str) -> bool:
    """Whether the apiVersion's group may be meant for that of `right`. Other groups have kinds of the same names: Volcano's Job."""
    group = version.rpartition("/")[0]
    return not group or bool(did_you_mean(group, [right.rpartition("/")[0]]))
