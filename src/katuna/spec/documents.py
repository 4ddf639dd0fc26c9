"""What the documents of several files are: Experiments, ConfigMaps beside them, jobs, and what katuna has no use for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from katuna.errors import KATUNA, LOCAL, Finding
from katuna.spec.defaults import EXPERIMENT
from katuna.spec.fields import API_SERVER, examine, kinds
from katuna.spec.jobcheck import KINDS_HERE, check_alone
from katuna.spec.remark import Path, Remark, did_you_mean, listed, shown
from katuna.spec.yamltext import Document, Source, parse

NAME: Path = ("metadata", "name")


def name_of(document: Document) -> str:
    return _metadata(document, "name", "")


def _metadata(document: Document, field: str, default: str) -> str:
    metadata = document.value.get("metadata")
    return str(metadata.get(field) or default) if isinstance(metadata, dict) else default


class Documents:
    """The documents by what they are; `findings` are those of reading them."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._order = {source.name: number for number, source in reversed(list(enumerate(sources)))}
        self.findings: list[Finding] = []
        self.experiments: list[Document] = []
        self.config_maps: list[Document] = []
        self.others: list[Document] = []
        if not sources:
            self.findings.append(Finding("", 0, 0, "", "no file was given", hint="name one or more YAML files", code="no-file"))
        for source in sources:
            documents, findings = parse(source)
            self.findings += findings
            for document in documents:
                self._sort(document)

    def _sort(self, document: Document) -> None:
        value = document.value
        if not isinstance(value, dict):
            remark = Remark(
                (),
                f"a manifest must be a mapping, not {shown(value)}",
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
        elif f"{value['apiVersion']} {value['kind']}" == EXPERIMENT:
            self.experiments.append(document)
        elif (value["apiVersion"], value["kind"]) == ("v1", "ConfigMap"):
            self.config_maps.append(document)
        else:
            self.others.append(document)

    def check_others(self, pass_env: Collection[str] = ()) -> Iterator[Finding]:
        """ConfigMaps: their fields; jobs: all rules. Of what else there is, a note, or an error where an Experiment was meant."""
        maps = [examine(each.value).known for each in self.config_maps]
        for document in chain(self.config_maps, self.others):
            value = document.value
            remarks: Iterable[Remark] = [_foreign(value)]
            if (value["apiVersion"], value["kind"]) in KINDS_HERE:
                remarks = check_alone(value, maps, pass_env)
            elif (value["apiVersion"], value["kind"]) in kinds():
                remarks = examine(value, reader=API_SERVER).remarks
            yield from map(document.finding, remarks)

    def check_choice(self, chosen: Sequence[Document], name: str | None) -> Iterator[Finding]:
        """That one Experiment is left to run."""
        names = [name_of(document) for document in self.experiments]
        if not self.experiments and not self.findings and not any(finding.level == "error" for finding in self.check_others()):
            first = next(iter(self._order), "")
            hint = "apiVersion: kubeflow.org/v1beta1, kind: Experiment"
            yield Finding(first, 0, 0, "", "there is no Experiment", hint=hint, code="no-experiment")
        elif self.experiments and not chosen:
            message = f"there is no Experiment named {shown(name)}"
            yield Finding(self.experiments[0].file, 0, 0, "", message, hint=f"there are: {listed(names)}", code="no-experiment")
        if name is None and len(set(names)) > 1:
            message = f"several Experiments are given: {listed(names)}"
            yield self.experiments[1].finding(Remark(NAME, message, "--experiment NAME picks one", code="several-experiments"))

    def check_doubles(self) -> Iterator[Finding]:
        """Two Experiments of one name, or ConfigMaps: which of them a cluster keeps depends on the order of sending."""
        first: dict[tuple[str, str, str], Document] = {}
        for document in chain(self.experiments, self.config_maps):
            key = (document.value["kind"], _metadata(document, "namespace", "default"), name_of(document))
            if key[2] and key in first:
                there = first[key]
                message = f"a second {key[0]} is named {shown(key[2])}; the first is at {there.file}:{there.place(NAME)[0]}"
                yield document.finding(Remark(NAME, message, "give it another name", code="repeated-name"))
            first.setdefault(key, document)

    def ordered(self, findings: Iterable[Finding]) -> list[Finding]:
        """Without repetitions, by file as given, then by line."""
        return sorted(dict.fromkeys(findings), key=lambda each: (self._order.get(each.file, 0), each.line, each.column))


def _foreign(value: Mapping[str, Any]) -> Remark:
    """A kind that katuna has no use for. One that is nearly an Experiment's is an error, so that a typo is not passed over."""
    version, kind = value["apiVersion"], value["kind"]
    known = [name for _, name in kinds()]
    if (version, kind) == ("v1", "Secret"):
        hint = "leave it out of the files and give trials its values by --pass-env NAME"
        message = "the run folder keeps the files that it was started from, and must not keep a Secret"
        return Remark(("kind",), message, hint, on=KATUNA, code="secret-beside")
    if kind in known:
        right = next(api for api, name in kinds() if name == kind)
        return Remark(("apiVersion",), f"{shown(version)} has no kind {kind}", f"write {right}", code="unknown-kind")
    meant = did_you_mean(kind, known)
    if meant or "kubeflow.org" in version:
        hint = f"did you mean {meant}?" if meant else f"kinds: {listed(known)}"
        return Remark(("kind",), f"the kind {shown(kind)} of {version} is not known", hint, code="unknown-kind")
    return Remark(("kind",), f"a {kind} is ignored here", level="note", on=LOCAL, code="ignored-object")
