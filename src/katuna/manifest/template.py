"""The trial template: the source of its text, and Katib's rules for placeholders and references (katib.md 5.2)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from katuna.errors import EVERYWHERE, KATUNA, RenderRefused
from katuna.manifest.defaults import KINDS_WITH_DEFAULTS
from katuna.manifest.diagnostic import Path, Remark, did_you_mean, hint_of, listed, shown, unlike_katib
from katuna.manifest.experiment import Manifest
from katuna.manifest.references import find
from katuna.manifest.render import METADATA_REFERENCE, PLACEHOLDER, compact_json, parse_template, placeholder

TEMPLATE: Path = ("spec", "trialTemplate")
TRIAL_PARAMETERS: Path = (*TEMPLATE, "trialParameters")
METADATA_KEYS = ("Name", "Namespace", "Kind", "APIVersion", "Labels[KEY]", "Annotations[KEY]")

SHIPPED_CONFIG_MAP = ("trial-templates", "kubeflow")
"""A ConfigMap that Katib's installation creates."""

_LOOK_ALIKE = re.compile(
    r"(?:\$\{\{?|\$\(|\$|\{\{)\s*(?P<word>trial[_-]?(?:parameters?|params?|spec))\b(?P<rest>[\w.:/\[\]-]*)\s*[})]{0,2}",
    re.IGNORECASE,
)
_METADATA_KEY = re.compile(r"(Name|Namespace|Kind|APIVersion|Labels|Annotations)\Z|(Labels|Annotations)\[.+]")


@dataclass(frozen=True)
class TemplateText:
    """The text in which placeholders are replaced, and its object with `test-value` in every placeholder."""

    text: str
    is_yaml: bool
    tested: dict[str, Any]

    def sampled(self, values: Mapping[str, str]) -> dict[str, Any]:
        """The object with these values in the placeholders, and `test-value` in all others. Raises RenderRefused."""
        text = PLACEHOLDER.sub(lambda match: values.get(match[1], "test-value"), self.text)
        return parse_template(text, self.is_yaml)


def read_template(spec: Mapping[str, Any], config_maps: Sequence[Manifest]) -> tuple[TemplateText | None, list[Remark]]:
    """The template's text, None without a usable text, and every remark on the template that is not about the job."""
    template = spec.get("trialTemplate")
    if template is None:
        return None, [Remark(TEMPLATE, "must be specified", "the job that a trial runs", code="missing-field")]
    remarks = list(_check_required(template))
    text, source_remarks = _source(template, config_maps)
    remarks += source_remarks
    if text is None:
        return None, remarks
    is_yaml = "trialSpec" not in template
    remarks += _check_parameters(spec, template.get("trialParameters", []), text)
    remarks += _check_look_alikes(template, text)
    tested, object_remarks = _tested(text, is_yaml)
    remarks += object_remarks
    if tested is not None:
        remarks += _check_text_around(template.get("trialParameters", []))
    return (None if tested is None else TemplateText(text, is_yaml, tested)), remarks


def _check_required(template: Mapping[str, Any]) -> Iterator[Remark]:
    if not template.get("primaryContainerName"):
        hint = "the name of the container that trains"
        yield Remark((*TEMPLATE, "primaryContainerName"), "must be specified", hint, code="missing-field")
    if not (template.get("successCondition") and template.get("failureCondition")):
        kind = template.get("trialSpec", {}).get("kind", "")
        about = f" for the kind {shown(kind)}" if kind else ""
        message = f"successCondition and failureCondition must be specified{about}"
        hint = hint_of(str(kind), KINDS_WITH_DEFAULTS, f"defaults exist for {listed(KINDS_WITH_DEFAULTS)}")
        yield Remark(TEMPLATE, message, hint, code="missing-field")
    if not template.get("trialParameters"):
        hint = "name and reference of every ${trialParameters.NAME}"
        yield Remark(TRIAL_PARAMETERS, "must be specified", hint, code="missing-field")


def _source(template: Mapping[str, Any], config_maps: Sequence[Manifest]) -> tuple[str | None, list[Remark]]:
    if "trialSpec" in template and "configMap" in template:
        message = "only one of spec.trialTemplate.trialSpec or spec.trialTemplate.configMap can be specified"
        return None, [Remark(TEMPLATE, message, code="one-of-two")]
    if "trialSpec" in template:
        return compact_json(template["trialSpec"]), []
    if "configMap" in template:
        found = _config_map_text(template["configMap"], config_maps)
        return (None, [found]) if isinstance(found, Remark) else (found, [])
    message = "spec.trialTemplate.trialSpec or spec.trialTemplate.configMap must be specified"
    return None, [Remark((*TEMPLATE, "trialSpec"), message, code="missing-field")]


def _config_map_text(source: Mapping[str, str], config_maps: Sequence[Manifest]) -> str | Remark:
    path: Path = (*TEMPLATE, "configMap")
    name, namespace, key = (source.get(each, "") for each in ("configMapName", "configMapNamespace", "templatePath"))
    if not (name and namespace and key):
        message = "configMapName, configMapNamespace and templatePath must be specified"
        return Remark(path, message, code="missing-field")
    found = find(config_maps, "ConfigMap", name, namespace)
    if found is None:
        message = f"the ConfigMap {name} in namespace {namespace} is not among the files given"
        on = KATUNA if (name, namespace) == SHIPPED_CONFIG_MAP else EVERYWHERE
        return Remark(path, message, "give its file beside this one", on=on, code="no-config-map")
    entries = found.get("data", {})
    if key not in entries:
        hint = f"it has: {listed(sorted(entries))}"
        return Remark((*path, "templatePath"), f"the ConfigMap {name} has no key {shown(key)}", hint, code="no-config-map-key")
    return str(entries[key])


def _check_parameters(spec: Mapping[str, Any], parameters: Sequence[Mapping[str, str]], text: str) -> Iterator[Remark]:
    """Katib stops at the first placeholder that the template lacks; these remarks name all."""
    searched = [parameter.get("name", "") for parameter in spec.get("parameters", [])]
    names: set[str] = set()
    references: set[str] = set()
    for index, parameter in enumerate(parameters):
        path, name, reference = (*TRIAL_PARAMETERS, index), parameter.get("name", ""), parameter.get("reference", "")
        if not name or not reference or "{" in name or "}" in name:
            message = "name and reference must be specified and name must not contain '{' or '}'"
            about = "name" if not name or reference else "reference"
            yield Remark(path, message, code="bad-trial-parameter", about=(*path, about))
        elif name in names:
            message = f"the trialParameter {shown(name)} is there already"
            yield Remark((*path, "name"), message, "names must differ", code="repeated-trial-parameter")
        elif reference in references:
            message = f"{shown(reference)} feeds another trialParameter already"
            yield Remark((*path, "reference"), message, "use that one's placeholder twice", code="repeated-reference")
        elif searched:
            yield from _check_reference(reference, searched, (*path, "reference"))
        if name and name not in names and placeholder(name) not in text:
            message, hint = f"{placeholder(name)} does not occur in the template", _nearest(name, text, names)
            yield Remark((*path, "name"), message, hint, code="unused-trial-parameter")
        names.add(name)
        references.add(reference)
    # A trialParameter without a name may be the one that is meant.
    for left in dict.fromkeys(PLACEHOLDER.findall(text)) if "" not in names else ():
        if left not in names:
            meant = did_you_mean(left, names)
            hint = f"did you mean {placeholder(meant)}?" if meant else ""
            yield Remark(TRIAL_PARAMETERS, f"{placeholder(left)} is not declared here", hint, code="undeclared-placeholder")
    if parameters:
        yield from _check_all_used(searched, parameters)


def _check_look_alikes(template: Mapping[str, Any], text: str) -> Iterator[Remark]:
    """Remarks on text that looks like a placeholder and is none: every trial would get it unchanged."""
    names = [parameter.get("name", "") for parameter in template.get("trialParameters", [])]
    places = (
        texts(template["trialSpec"], (*TEMPLATE, "trialSpec")) if "trialSpec" in template else [((*TEMPLATE, "configMap"), text)]
    )
    for path, each in places:
        for found in _LOOK_ALIKE.finditer(PLACEHOLDER.sub("", each)):
            message = f"{shown(found[0])} is no placeholder: each trial would get this text"
            remark = Remark(path, message, _meant_placeholder(found, names), code="no-placeholder")
            # Katib's recorded trial with blanks in a placeholder succeeded.
            yield from unlike_katib(remark, "trials run with it") if " " in found[0] else (remark,)


def _meant_placeholder(found: re.Match[str], names: Sequence[str]) -> str:
    word = found["rest"].strip(".[]:/")
    if found["word"].lower().endswith("spec"):
        key = did_you_mean(word, METADATA_KEYS) or (word if _METADATA_KEY.match(word) else "Name")
        return f"did you mean a trialParameter whose reference is ${{trialSpec.{key}}}, and its ${{trialParameters.NAME}} here?"
    return f"did you mean {placeholder(did_you_mean(word, names) or word or 'NAME')}?"


def texts(value: object, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Every text in an object, with its path. A key has the path of its value."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield (*path, key), key
            yield from texts(each, (*path, key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from texts(each, (*path, index))


def _check_all_used(searched: Sequence[str], parameters: Sequence[Mapping[str, str]]) -> Iterator[Remark]:
    """A trial is rendered only when a trialParameter refers to every search parameter."""
    references = [parameter.get("reference", "") for parameter in parameters]
    for index, name in enumerate(searched):
        if name and name not in references and "" not in references and name not in searched[:index]:
            message = f"no trialParameter refers to the search parameter {shown(name)}: no trial would ever start"
            hint = "add it to trialTemplate.trialParameters and to the command"
            yield Remark(("spec", "parameters", index), message, hint, code="unused-parameter")


def _check_text_around(parameters: Sequence[Mapping[str, str]]) -> Iterator[Remark]:
    for index, parameter in enumerate(parameters):
        reference = parameter.get("reference", "")
        found = METADATA_REFERENCE.search(reference)
        if found and found[0] != reference:
            message = f"of {shown(reference)} only {found[0]} counts: the text around it is dropped"
            hint = "write that text around the placeholder in the template"
            yield Remark((*TRIAL_PARAMETERS, index, "reference"), message, hint, "warning", code="text-around-reference")


def _nearest(name: str, text: str, names: set[str]) -> str:
    others = [other for other in PLACEHOLDER.findall(text) if other not in names]
    meant = did_you_mean(name, others)
    return f"the template has {placeholder(meant)}" if meant else "the trial would not see the value"


def _check_reference(reference: str, searched: Sequence[str], path: Path) -> Iterator[Remark]:
    metadata = METADATA_REFERENCE.search(reference)
    if metadata:
        if not _METADATA_KEY.match(metadata[1]):
            hint = f"after trialSpec. comes one of: {listed(METADATA_KEYS)}"
            yield Remark(path, f"{shown(reference)} is not a trial reference", hint, code="unknown-reference")
    elif reference not in searched:
        hint = hint_of(reference, searched, f"parameters: {listed(filter(None, searched))}")
        yield Remark(path, f"{shown(reference)} is not a name in spec.parameters", hint, code="unknown-reference")


def _tested(text: str, is_yaml: bool) -> tuple[dict[str, Any] | None, list[Remark]]:
    try:
        tested = parse_template(PLACEHOLDER.sub("test-value", text), is_yaml)
    except RenderRefused as refused:
        return None, [Remark(TEMPLATE, str(refused), code="bad-template")]
    remarks = []
    for name in ("apiVersion", "kind"):
        if not isinstance(tested.get(name), str) or not tested[name]:
            remarks.append(Remark((*TEMPLATE, "trialSpec", name), "must be specified", code="missing-field"))
    for name in ("name", "namespace"):
        if (tested.get("metadata") or {}).get(name):
            path = (*TEMPLATE, "trialSpec", "metadata", name)
            remarks.append(Remark(path, "must be omitted: the trial gives it", at_key=True, code="name-in-template"))
    return (None if remarks and remarks[0].path[-1] in ("apiVersion", "kind") else tested), remarks
