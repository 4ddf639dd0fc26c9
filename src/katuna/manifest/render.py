"""A trial's job from the template: text substitution before parsing, as Katib's manifest generator does it (katib.md 5.3)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from katuna.errors import RenderRefused
from katuna.manifest.diagnostic import shown
from katuna.manifest.experiment import Experiment, Manifest, TrialParameter, TrialTemplate
from katuna.manifest.yamltext import Source, parse

PLACEHOLDER = re.compile(r"\$\{trialParameters\.(.+?)\}")
METADATA_REFERENCE = re.compile(r"\$\{trialSpec\.(.+?)\}")

_GO_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_GO_ESCAPED = re.compile("[<>&\u2028\u2029]")


def compact_json(value: Any) -> str:
    """JSON as Go's encoding/json writes it: sorted keys, no spaces, `<`, `>` and `&` escaped."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return _GO_ESCAPED.sub(lambda match: _GO_ESCAPES[match[0]], text)


def placeholder(name: str) -> str:
    return f"${{trialParameters.{name}}}"


def render(experiment: Experiment, trial_name: str, assignments: Mapping[str, str]) -> Manifest:
    """The job of one trial. `assignments` maps every search parameter to its value text.

    Raises RenderRefused where Katib's generator would fail: an assignment is missing or not used, the template lacks a label or
    annotation, or the result cannot be parsed.
    """
    return render_template(experiment.template, trial_name, experiment.namespace, assignments)


def render_template(template: TrialTemplate, trial_name: str, namespace: str, assignments: Mapping[str, str]) -> Manifest:
    """`render` for a template alone."""
    searched = [parameter for parameter in template.parameters if not METADATA_REFERENCE.search(parameter.reference)]
    if len(searched) != len(assignments):
        unused = sorted(set(assignments) - {parameter.reference for parameter in searched})
        raise RenderRefused(
            f"no trialParameter refers to {', '.join(unused) or 'every search parameter'}: Katib renders no such trial"
        )
    has_metadata = len(searched) < len(template.parameters)
    metadata = _metadata(template, trial_name, namespace) if has_metadata else {}
    text = template.text
    for parameter in template.parameters:
        text = text.replace(placeholder(parameter.name), _value(parameter, assignments, metadata))
    manifest = parse_template(text, template.is_yaml)
    manifest.setdefault("metadata", {})
    manifest["metadata"] = {**manifest["metadata"], "name": trial_name, "namespace": namespace}
    return manifest


def parse_template(text: str, is_yaml: bool) -> dict[str, Any]:
    """The object that a template's text stands for. Raises RenderRefused when it is not one."""
    if is_yaml:
        documents, findings = parse(Source("template", text))
        if findings:
            raise RenderRefused(f"the template is not valid YAML: {findings[0].message} (line {findings[0].line} of it)")
        value = documents[0].value
    else:
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise RenderRefused(
                f"the rendered job is not valid JSON near {shown(text[max(0, error.pos - 20) : error.pos + 20])}"
            ) from None
    if not isinstance(value, dict) or not isinstance(value.get("metadata", {}), (dict, type(None))):
        raise RenderRefused("the template is not a Kubernetes object")
    if value.get("metadata", {}) is None:
        del value["metadata"]
    return value


def _value(parameter: TrialParameter, assignments: Mapping[str, str], metadata: Mapping[str, str]) -> str:
    found = METADATA_REFERENCE.search(parameter.reference)
    values = metadata if found else assignments
    name = found[1] if found else parameter.reference
    if name not in values:
        raise RenderRefused(f"trialParameter {parameter.name!r} refers to {parameter.reference!r}, which has no value")
    return values[name]


def _metadata(template: TrialTemplate, trial_name: str, namespace: str) -> dict[str, str]:
    """The values that `${trialSpec...}` can refer to: the trial's name and namespace, the template's kind, version, labels, annotations."""
    manifest = parse_template(template.text, template.is_yaml)
    found = {"Name": trial_name, "Namespace": namespace}
    found |= {"Kind": str(manifest.get("kind")), "APIVersion": str(manifest.get("apiVersion"))}
    for table in ("Labels", "Annotations"):
        entries = (manifest.get("metadata") or {}).get(table.lower())
        found |= {f"{table}[{key}]": str(value) for key, value in (entries if isinstance(entries, dict) else {}).items()}
    return found
