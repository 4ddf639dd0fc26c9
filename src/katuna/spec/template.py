"""The trial template: where its text comes from, and Katib's rules for placeholders and references (katib.md 5.2)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from katuna.errors import LOCAL, RenderRefused
from katuna.spec.env import find_config_map
from katuna.spec.model import Manifest
from katuna.spec.remark import Path, Remark, did_you_mean, listed, shown
from katuna.spec.render import METADATA_REFERENCE, PLACEHOLDER, compact_json, parse_template, placeholder

TEMPLATE: Path = ("spec", "trialTemplate")
TRIAL_PARAMETERS: Path = (*TEMPLATE, "trialParameters")
METADATA_KEYS = ("Name", "Namespace", "Kind", "APIVersion", "Labels[KEY]", "Annotations[KEY]")

_METADATA_KEY = re.compile(r"(Name|Namespace|Kind|APIVersion|Labels|Annotations|(Labels|Annotations)\[.+])\Z")


@dataclass(frozen=True)
class TemplateText:
    """The text that placeholders are replaced in, and the object it stands for with every placeholder as `test-value`."""

    text: str
    is_yaml: bool
    tested: dict[str, Any]

    def sampled(self, values: Mapping[str, str]) -> dict[str, Any]:
        """The object with values for placeholders, `test-value` for those that have none. Raises RenderRefused."""
        text = PLACEHOLDER.sub(lambda match: values.get(match[1], "test-value"), self.text)
        return parse_template(text, self.is_yaml)


def read_template(spec: Mapping[str, Any], config_maps: Sequence[Manifest]) -> tuple[TemplateText | None, list[Remark]]:
    """The template's text, None when there is none to go on with, and every remark on the template that is not about the job."""
    template = spec.get("trialTemplate")
    if template is None:
        return None, [Remark(TEMPLATE, "must be specified", "the job that a trial runs")]
    remarks = list(_check_required(template))
    text, source_remarks = _source(template, config_maps)
    remarks += source_remarks
    if text is None:
        return None, remarks
    is_yaml = "trialSpec" not in template
    remarks += _check_parameters(spec, template.get("trialParameters", []), text)
    tested, object_remarks = _tested(text, is_yaml)
    remarks += object_remarks
    return (None if tested is None else TemplateText(text, is_yaml, tested)), remarks


def _check_required(template: Mapping[str, Any]) -> Iterator[Remark]:
    if not template.get("primaryContainerName"):
        yield Remark((*TEMPLATE, "primaryContainerName"), "must be specified", "the name of the container that trains")
    if not (template.get("successCondition") and template.get("failureCondition")):
        kind = template.get("trialSpec", {}).get("kind", "")
        about = f" for the kind {shown(kind)}" if kind else ""
        yield Remark(
            TEMPLATE,
            f"successCondition and failureCondition must be specified{about}",
            "defaults exist for Job, PyTorchJob, TrainJob",
        )
    if not template.get("trialParameters"):
        yield Remark(TRIAL_PARAMETERS, "must be specified", "name and reference of every ${trialParameters.NAME}")


def _source(template: Mapping[str, Any], config_maps: Sequence[Manifest]) -> tuple[str | None, list[Remark]]:
    if "trialSpec" in template and "configMap" in template:
        message = "only one of spec.trialTemplate.trialSpec or spec.trialTemplate.configMap can be specified"
        return None, [Remark(TEMPLATE, message)]
    if "trialSpec" in template:
        return compact_json(template["trialSpec"]), []
    if "configMap" in template:
        found = _config_map_text(template["configMap"], config_maps)
        return (None, [found]) if isinstance(found, Remark) else (found, [])
    message = "spec.trialTemplate.trialSpec or spec.trialTemplate.configMap must be specified"
    return None, [Remark((*TEMPLATE, "trialSpec"), message)]


def _config_map_text(source: Mapping[str, str], config_maps: Sequence[Manifest]) -> str | Remark:
    path: Path = (*TEMPLATE, "configMap")
    name, namespace, key = (source.get(each, "") for each in ("configMapName", "configMapNamespace", "templatePath"))
    if not (name and namespace and key):
        return Remark(path, "configMapName, configMapNamespace and templatePath must be specified")
    found = find_config_map(config_maps, name, namespace)
    if found is None:
        message = f"the ConfigMap {name} in namespace {namespace} is not among the files given"
        return Remark(path, message, "give its file beside this one", on=LOCAL)
    entries = found.get("data", {})
    if key not in entries:
        hint = f"it has: {listed(sorted(entries))}"
        return Remark((*path, "templatePath"), f"the ConfigMap {name} has no key {shown(key)}", hint)
    return str(entries[key])


def _check_parameters(spec: Mapping[str, Any], parameters: Sequence[Mapping[str, str]], text: str) -> Iterator[Remark]:
    """Katib stops at the first placeholder that the template lacks; here all are named."""
    searched = [parameter.get("name", "") for parameter in spec.get("parameters", [])]
    names: set[str] = set()
    references: set[str] = set()
    for index, parameter in enumerate(parameters):
        path, name, reference = (*TRIAL_PARAMETERS, index), parameter.get("name", ""), parameter.get("reference", "")
        if not name or not reference or "{" in name or "}" in name:
            yield Remark(path, "name and reference must be specified and name must not contain '{' or '}'")
        elif name in names:
            yield Remark((*path, "name"), f"the trialParameter {shown(name)} is there already", "names must differ")
        elif reference in references:
            yield Remark(
                (*path, "reference"),
                f"{shown(reference)} feeds another trialParameter already",
                "use that one's placeholder twice",
            )
        elif spec.get("parameters"):
            yield from _check_reference(reference, searched, (*path, "reference"))
        if name and name not in names and placeholder(name) not in text:
            yield Remark((*path, "name"), f"{placeholder(name)} does not occur in the template", _nearest(name, text, names))
        names.add(name)
        references.add(reference)
    for left in dict.fromkeys(PLACEHOLDER.findall(text)):
        if left not in names:
            meant = did_you_mean(left, names)
            yield Remark(
                TRIAL_PARAMETERS,
                f"{placeholder(left)} is not declared here",
                f"did you mean {placeholder(meant)}?" if meant else "",
            )
    if "nasConfig" in spec or not parameters:
        return
    for index, name in enumerate(searched):
        if name and name not in references and name not in searched[:index]:
            message = f"no trialParameter refers to the search parameter {shown(name)}: no trial would ever start"
            yield Remark(("spec", "parameters", index), message, "add it to trialTemplate.trialParameters and to the command")


def _nearest(name: str, text: str, names: set[str]) -> str:
    others = [other for other in PLACEHOLDER.findall(text) if other not in names]
    meant = did_you_mean(name, others)
    return f"the template has {placeholder(meant)}" if meant else "the trial would not see the value"


def _check_reference(reference: str, searched: Sequence[str], path: Path) -> Iterator[Remark]:
    metadata = METADATA_REFERENCE.search(reference)
    if metadata:
        if not _METADATA_KEY.match(metadata[1]):
            yield Remark(
                path, f"{shown(reference)} is not a trial reference", f"after trialSpec. comes one of: {listed(METADATA_KEYS)}"
            )
    elif reference not in searched:
        meant = did_you_mean(reference, searched)
        hint = f"did you mean {meant}?" if meant else f"parameters: {listed(filter(None, searched))}"
        yield Remark(path, f"{shown(reference)} is not a name in spec.parameters", hint)


def _tested(text: str, is_yaml: bool) -> tuple[dict[str, Any] | None, list[Remark]]:
    try:
        tested = parse_template(PLACEHOLDER.sub("test-value", text), is_yaml)
    except RenderRefused as refused:
        return None, [Remark(TEMPLATE, str(refused))]
    remarks = []
    for name in ("apiVersion", "kind"):
        if not isinstance(tested.get(name), str) or not tested[name]:
            remarks.append(Remark((*TEMPLATE, "trialSpec", name), "must be specified"))
    for name in ("name", "namespace"):
        if (tested.get("metadata") or {}).get(name):
            remarks.append(Remark((*TEMPLATE, "trialSpec", "metadata", name), "must be omitted: the trial gives it", at_key=True))
    return (None if remarks and remarks[0].path[-1] in ("apiVersion", "kind") else tested), remarks
