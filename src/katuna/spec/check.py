"""One Experiment document: every rule on it and on its job, and the typed model when none is broken."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from katuna.errors import LOCAL, Finding, RenderRefused
from katuna.spec.defaults import with_defaults
from katuna.spec.env import find_config_map
from katuna.spec.fields import examine
from katuna.spec.job import Job, job_from_manifest
from katuna.spec.jobcheck import IGNORED, check_job, check_kind, gathered
from katuna.spec.model import (
    Collector,
    EarlyStopping,
    Experiment,
    Manifest,
    Objective,
    ObjectiveType,
    TrialParameter,
    TrialTemplate,
)
from katuna.spec.remark import NUL, NUL_MESSAGE, Path, Remark, path_text
from katuna.spec.render import METADATA_REFERENCE, render
from katuna.spec.rules import check_experiment, parameter_of
from katuna.spec.template import TEMPLATE, TemplateText, read_template
from katuna.spec.yamltext import Document

TRIAL_SPEC: Path = (*TEMPLATE, "trialSpec")
MAX_RENDERED_CHOICES = 100

_IGNORED_FIELDS = (
    *((*TEMPLATE, name) for name in ("successCondition", "failureCondition", "primaryPodLabels", "retain")),
    ("spec", "metricsCollectorSpec", "source", "fileSystemPath"),
    ("spec", "metricsCollectorSpec", "source", "httpGet"),
    ("status",),
)
_HARMLESS = re.compile(r"[\w.+-]*\Z", re.ASCII)


def check(
    document: Document, config_maps: Sequence[Document], pass_env: Collection[str]
) -> tuple[Experiment | None, list[Finding]]:
    """The model, None when there are errors, and all findings on the Experiment and its job."""
    examined = examine(document.value)
    defaulted = with_defaults(document.value)
    maps = known_config_maps(config_maps)
    template, template_remarks = read_template(defaulted["spec"], maps)
    rules = [*check_experiment(defaulted), *template_remarks]
    remarks = [*examined.remarks, *_not_again(examined.lost, rules), *_ignored(document.value)]
    findings: list[Finding] = []
    if template is not None:
        job_remarks = _check_job(template, defaulted, maps, pass_env)
        if template.is_yaml:
            inner, path = _config_map_entry(config_maps, defaulted)
            findings = [inner.finding(remark.below(path)) for remark in gathered(job_remarks)]
        else:
            remarks += [remark.below(TRIAL_SPEC) for remark in job_remarks]
    findings += [document.finding(remark) for remark in gathered(remarks)]
    if template is None or any(finding.level == "error" for finding in findings):
        return None, findings
    experiment = _model(defaulted, template)
    broken = [document.finding(remark) for remark in _check_rendering(experiment, maps, pass_env)]
    return (None if broken else experiment), findings + broken


def known_config_maps(documents: Sequence[Document]) -> list[Manifest]:
    return [examine(document.value).known for document in documents]


def _not_again(lost: Collection[Path], rules: Iterable[Remark]) -> Iterator[Remark]:
    """Rules without those that only repeat what a wrong type or a misspelt name has caused."""
    for remark in rules:
        if not any(remark.path[:end] in lost for end in range(1, len(remark.path) + 1)):
            yield remark


def _ignored(manifest: Mapping[str, Any]) -> Iterator[Remark]:
    for path in _IGNORED_FIELDS:
        value: Any = manifest
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            yield Remark(path, IGNORED, level="note", on=LOCAL, at_key=True)
    spec = manifest.get("spec")
    if isinstance(spec, dict) and spec.get("resumePolicy") in ("LongRunning", "FromVolume"):
        yield Remark(("spec", "resumePolicy"), IGNORED, level="note", on=LOCAL, at_key=True)


def _check_job(
    template: TemplateText, defaulted: Mapping[str, Any], config_maps: Sequence[Manifest], pass_env: Collection[str]
) -> list[Remark]:
    """Katib converts a Job with `test-value` in every placeholder; other kinds are seen first with real values."""
    remarks = list(check_kind(template.tested))
    if remarks:
        return remarks
    try:
        job = template.tested if template.tested["kind"] == "Job" else template.sampled(_sample(defaulted["spec"]))
    except RenderRefused as refused:
        return [Remark((), f"{refused}: no trial would ever start")]
    job = {**job, "metadata": {**(job.get("metadata") or {}), "namespace": _namespace(defaulted)}}
    primary = defaulted["spec"]["trialTemplate"].get("primaryContainerName", "")
    return check_job(job, primary, config_maps, pass_env)


def _sample(spec: Mapping[str, Any]) -> dict[str, str]:
    """A value for each placeholder that a search parameter feeds."""
    values = {}
    for parameter in spec.get("parameters", []):
        space = parameter["feasibleSpace"]
        values[parameter.get("name", "")] = space.get("min") or next(iter(space.get("list", ())), "test-value")
    pairs = ((each.get("name", ""), each.get("reference", "")) for each in spec["trialTemplate"].get("trialParameters", []))
    return {name: values[reference] for name, reference in pairs if reference in values}


def _config_map_entry(config_maps: Sequence[Document], defaulted: Mapping[str, Any]) -> tuple[Document, Path]:
    """The template inside its ConfigMap, for the places of remarks."""
    source = defaulted["spec"]["trialTemplate"]["configMap"]
    maps = known_config_maps(config_maps)
    found = find_config_map(maps, source["configMapName"], source["configMapNamespace"])
    document = next(document for document, known in zip(config_maps, maps, strict=True) if known is found)
    path: Path = ("data", source["templatePath"])
    return document.inner(path), path


def _namespace(defaulted: Mapping[str, Any]) -> str:
    return str(defaulted.get("metadata", {}).get("namespace", "default"))


def _check_rendering(experiment: Experiment, config_maps: Sequence[Manifest], pass_env: Collection[str]) -> Iterator[Remark]:
    """Renders a point, and each choice that could break the job's text, so that no run meets a render error."""
    base = {
        each.name: each.on_grid(0) if each.choices or each.step else each.text(each.bounds[0]) for each in experiment.parameters
    }
    points = [(TEMPLATE, base)]
    for index, parameter in enumerate(experiment.parameters):
        for number, choice in enumerate(parameter.choices):
            if experiment.template.is_yaml or not _HARMLESS.match(choice):
                points.append((("spec", "parameters", index, "feasibleSpace", "list", number), {**base, parameter.name: choice}))
    for path, point in points[:MAX_RENDERED_CHOICES]:
        try:
            manifest = render(experiment, f"{experiment.name}-bbbbbbbb", point)
            retyped = list(_retyped(manifest)) if experiment.template.is_yaml else []
            if not retyped:
                _refuse_nul(job_from_manifest(manifest, experiment.template.primary_container, config_maps, pass_env=pass_env))
        except RenderRefused as refused:
            where = path if path != TEMPLATE else next(_bad_references(experiment, refused), TEMPLATE)
            yield Remark(where, f"{refused}: no trial would ever start")
        else:
            yield from (replace(remark, path=path) for remark in retyped)
            if retyped:
                return


def _refuse_nul(job: Job) -> None:
    """A template may make a NUL of a choice's harmless backslash and zero."""
    for container in (replica.container for replica in job.replicas):
        if any(NUL in text for text in (*container.command, *container.args, container.working_dir)):
            raise RenderRefused(f"the command that this value makes {NUL_MESSAGE}")


def _retyped(manifest: Manifest) -> Iterator[Remark]:
    """In a YAML template an unquoted placeholder becomes what its value looks like: a number where the job wants text. Katib's
    admission, which puts text there, does not see it."""
    for remark in examine(manifest, decoded_by_katib=False).remarks:
        message = f"the rendered job is wrong at {path_text(remark.path)}: {remark.message}: no trial would ever start"
        yield Remark((), message, "write the placeholder in quotes in the template")


def _bad_references(experiment: Experiment, refused: RenderRefused) -> Iterator[Path]:
    """The trialParameter that a render error speaks of, when it is one about a metadata reference."""
    for index, parameter in enumerate(experiment.template.parameters):
        if METADATA_REFERENCE.search(parameter.reference) and parameter.reference in str(refused):
            yield (*TEMPLATE, "trialParameters", index, "reference")


def _model(defaulted: Manifest, template: TemplateText) -> Experiment:
    """The typed Experiment of a manifest without errors."""
    spec, metadata = defaulted["spec"], defaulted["metadata"]
    source, kind = spec["metricsCollectorSpec"].get("source", {}), spec["metricsCollectorSpec"]["collector"]["kind"]
    return Experiment(
        name=metadata["name"],
        namespace=_namespace(defaulted),
        objective=_objective(spec["objective"]),
        algorithm=spec["algorithm"]["algorithmName"],
        settings=_settings(spec["algorithm"]),
        parameters=tuple(parameter_of(each) for each in spec["parameters"]),
        template=_template(spec["trialTemplate"], template),
        parallel_trials=spec["parallelTrialCount"],
        max_trials=spec.get("maxTrialCount"),
        max_failed=spec.get("maxFailedTrialCount"),
        collector=Collector(
            kind=kind,
            filters=tuple(source.get("filter", {}).get("metricsFormat", ())),
            path=source.get("httpGet" if kind == "PrometheusMetric" else "fileSystemPath", {}).get("path", ""),
            format=source.get("fileSystemPath", {}).get("format", ""),
            port=int(source.get("httpGet", {}).get("port", 0)),
        ),
        early_stopping=_early_stopping(spec.get("earlyStopping")),
        resume_policy=spec["resumePolicy"],
        manifest=defaulted,
        labels=MappingProxyType(dict(metadata.get("labels", {}))),
    )


def _settings(algorithm: Mapping[str, Any]) -> Mapping[str, str]:
    return MappingProxyType({each["name"]: each.get("value", "") for each in algorithm.get("algorithmSettings", ())})


def _early_stopping(stopping: Mapping[str, Any] | None) -> EarlyStopping | None:
    return None if stopping is None else EarlyStopping(stopping["algorithmName"], _settings(stopping))


def _objective(objective: Mapping[str, Any]) -> Objective:
    goal = objective.get("goal")
    return Objective(
        type=ObjectiveType(objective["type"]),
        metric=objective["objectiveMetricName"],
        goal=None if goal is None else float(goal),
        additional=tuple(dict.fromkeys(objective.get("additionalMetricNames", ()))),
        strategies=MappingProxyType({each["name"]: each["value"] for each in objective["metricStrategies"]}),
    )


def _template(template: Mapping[str, Any], text: TemplateText) -> TrialTemplate:
    parameters = (
        TrialParameter(each["name"], each["reference"], each.get("description", "")) for each in template["trialParameters"]
    )
    return TrialTemplate(
        text=text.text,
        is_yaml=text.is_yaml,
        parameters=tuple(parameters),
        primary_container=template["primaryContainerName"],
        success_condition=template["successCondition"],
        failure_condition=template["failureCondition"],
        primary_pod_labels=MappingProxyType(dict(template.get("primaryPodLabels", {}))),
        retain=template.get("retain", False),
    )
