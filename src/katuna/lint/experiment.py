"""One Experiment document: every rule on it and on its job, and the typed model when none is broken."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path as File
from types import MappingProxyType
from typing import Any

from katuna.errors import Finding, RenderRefused
from katuna.lint.collector_rules import READS_TEXT, check_own_paths
from katuna.lint.conversion import check_conversion
from katuna.lint.experiment_rules import check_experiment, parameter_of
from katuna.lint.job_rules import check_job, check_kind, gathered
from katuna.lint.local_reads import local_reads
from katuna.lint.rendering import check_rendering
from katuna.lint.shell import WRAPPED, ReadScript, check_choices, check_script, check_wrapping, primary_container, words
from katuna.lint.traps import check_traps
from katuna.manifest.build import job_from_manifest, name_here
from katuna.manifest.defaults import with_defaults
from katuna.manifest.diagnostic import Path, Remark
from katuna.manifest.experiment import (
    Collector,
    EarlyStopping,
    Experiment,
    Manifest,
    Objective,
    ObjectiveType,
    TrialParameter,
    TrialTemplate,
)
from katuna.manifest.fields import UNREAD, Examined, examine
from katuna.manifest.references import find
from katuna.manifest.render import PLACEHOLDER, placeholder
from katuna.manifest.template import TEMPLATE, TemplateText, read_template
from katuna.manifest.yamltext import Document

TRIAL_SPEC: Path = (*TEMPLATE, "trialSpec")


def check(
    document: Document,
    config_maps: Sequence[Document],
    pass_env: Collection[str],
    read_script: ReadScript,
    folder: File | None = None,
) -> tuple[Experiment | None, list[Finding]]:
    """The model, None when there are errors for a run on this machine, and all findings on the Experiment and its job. What trials
    read of `folder` is looked for where one is given."""
    examined = examine(document.value)
    defaulted = with_defaults(document.value)
    maps = known_documents(config_maps)
    template, template_remarks = read_template(defaulted["spec"], maps)
    remarks = [*examined.remarks, *_not_again(examined, [*check_experiment(defaulted), *template_remarks])]
    findings: list[Finding] = []
    if template is not None:
        job_remarks = _check_job(template, defaulted, maps, pass_env)
        if folder is not None:
            job_remarks += _check_reads(template, defaulted, maps, folder)
        if template.is_yaml:
            inner, path = _config_map_entry(config_maps, defaulted)
            findings = [inner.finding(remark.below(path)) for remark in gathered(job_remarks)]
        else:
            remarks += [remark.below(TRIAL_SPEC) for remark in job_remarks]
        if not any(remark.level == "error" for remark in template_remarks) and not _lost_a_name(examined):
            runs_here = not any(remark.level == "error" and "local" in remark.on for remark in job_remarks)
            made = _template(defaulted["spec"]["trialTemplate"], template)
            remarks += check_rendering(made, defaulted, maps, pass_env, runs_here)
            if folder is not None and runs_here:
                remarks += _check_own_paths(template, defaulted["spec"], maps, pass_env)
    written = document.value.get("spec")
    name = defaulted.get("metadata", {}).get("name", "")
    traps = [*check_traps(defaulted["spec"], written if isinstance(written, dict) else {}, name)]
    if template is not None:
        traps += _check_command(template, defaulted["spec"], read_script)
    remarks += _not_again(examined, traps)
    findings += [document.finding(remark) for remark in gathered(remarks)]
    if template is None or any(finding.level == "error" and "local" in finding.on for finding in findings):
        return None, findings
    return _model(defaulted, template), findings


def known_documents(documents: Sequence[Document]) -> list[Manifest]:
    return [examine(document.value).known for document in documents]


def _not_again(examined: Examined, rules: Iterable[Remark]) -> Iterator[Remark]:
    """Rules without those that only repeat what a wrong type has caused, or here a misspelt name, which a cluster only drops."""
    mistyped = {remark.path for remark in examined.remarks if remark.code == "wrong-type"}
    for remark in rules:
        if remark.code == "unknown-reference" and _lost_a_name(examined):
            continue
        about = remark.about or remark.path
        lost = [about[:end] for end in range(1, len(about) + 1) if about[:end] in examined.lost]
        if not lost:
            yield remark
        elif not any(path[: len(each)] == each for path in mistyped for each in lost):
            on = tuple(engine for engine in remark.on if engine != "local")
            if on:
                yield replace(remark, on=on)


def _lost_a_name(examined: Examined) -> bool:
    """Whether a search parameter's name was of a wrong type: what refers to it cannot be told from what refers to nothing."""
    return any(path[:2] == ("spec", "parameters") and len(path) == 4 and path[3] == "name" for path in examined.lost)


def _check_command(template: TemplateText, spec: Mapping[str, Any], read_script: ReadScript) -> Iterator[Remark]:
    """What a shell on Katib makes of the command, and whether the script that it runs prints the metrics."""
    try:
        job = template.sampled({name: placeholder(name) for name in PLACEHOLDER.findall(template.text)})
    except RenderRefused:
        job = template.tested
    found = primary_container(job, spec["trialTemplate"].get("primaryContainerName", ""))
    if found is None:
        return
    path, container = found
    argv, kind = words(container), spec["metricsCollectorSpec"]["collector"].get("kind")
    top: Path = (*TEMPLATE, "configMap") if template.is_yaml else (*TRIAL_SPEC, *path)
    if kind in WRAPPED:
        for remark in check_wrapping(argv, _variables(job, container)):
            yield replace(remark, path=top) if template.is_yaml else remark.below(top)
        parameters = spec["trialTemplate"].get("trialParameters", [])
        references = {each.get("name", ""): each.get("reference", "") for each in parameters}
        yield from check_choices(spec.get("parameters", []), references, argv)
    if kind in (*READS_TEXT, "Push"):
        objective = spec.get("objective") or {}
        metrics: list[tuple[str, Path]] = [
            (objective.get("objectiveMetricName", ""), ("spec", "objective", "objectiveMetricName")),
            *(
                (name, ("spec", "objective", "additionalMetricNames", index))
                for index, name in enumerate(objective.get("additionalMetricNames", []))
            ),
        ]
        folder = container.get("workingDir")
        folder = folder if isinstance(folder, str) else ""
        yield from check_script(metrics, [word for word, _ in argv], folder, read_script)


def _variables(job: Mapping[str, Any], container: Mapping[str, Any]) -> set[str] | None:
    """What a container's command can refer to; None where a ConfigMap, a Secret or an operator gives it more."""
    entries = container.get("env") or []
    if job.get("kind") != "Job" or container.get("envFrom") or not isinstance(entries, list):
        return None
    return {str(each.get("name")) for each in entries if isinstance(each, dict)} | {"KATIB_TRIAL_NAME"}


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
        return [Remark((), f"{refused}: no trial would ever start", code="never-renders")]
    job = {**job, "metadata": {**(job.get("metadata") or {}), "namespace": _namespace(defaulted)}}
    primary = defaulted["spec"]["trialTemplate"].get("primaryContainerName", "")
    remarks += check_job(job, primary, config_maps, pass_env)
    known = {remark.path for remark in remarks if remark.level == "error" and "katib" in remark.on}
    if (job["apiVersion"], job["kind"]) == ("batch/v1", "Job"):
        remarks += [remark for remark in check_conversion(template.tested) if remark.path not in known]
    return remarks


def _check_reads(
    template: TemplateText, defaulted: Mapping[str, Any], config_maps: Sequence[Manifest], folder: File
) -> Iterator[Remark]:
    """A path may come of a search parameter: the job is seen with real values."""
    if any(check_kind(template.tested)):
        return
    try:
        job = template.sampled(_sample(defaulted["spec"]))
    except RenderRefused:
        return
    job = {**job, "metadata": {"namespace": _namespace(defaulted)}}
    yield from local_reads(examine(job, reader=UNREAD).known, config_maps, folder)


def _check_own_paths(
    template: TemplateText, spec: Mapping[str, Any], config_maps: Sequence[Manifest], pass_env: Collection[str]
) -> Iterator[Remark]:
    primary = spec["trialTemplate"].get("primaryContainerName", "")
    try:
        manifest = examine(template.sampled(_sample(spec)), reader=UNREAD).known
        job = job_from_manifest({**manifest, "metadata": {"name": "trial"}}, primary, config_maps, pass_env=pass_env)
    except RenderRefused:
        return  # Another rule says so.
    yield from check_own_paths(spec, job)


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
    maps = known_documents(config_maps)
    found = find(maps, "ConfigMap", source["configMapName"], source["configMapNamespace"])
    document = next(document for document, known in zip(config_maps, maps, strict=True) if known is found)
    path: Path = ("data", source["templatePath"])
    return document.inner(path), path


def _namespace(defaulted: Mapping[str, Any]) -> str:
    return str(defaulted.get("metadata", {}).get("namespace", "default"))


def _model(defaulted: Manifest, template: TemplateText) -> Experiment:
    """The typed Experiment of a manifest without errors."""
    spec, metadata = defaulted["spec"], defaulted["metadata"]
    source, kind = spec["metricsCollectorSpec"].get("source", {}), spec["metricsCollectorSpec"]["collector"]["kind"]
    return Experiment(
        name=name_here(metadata),
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
    """A setting without a name is none that any service reads."""
    written = algorithm.get("algorithmSettings", ())
    return MappingProxyType({each["name"]: each.get("value", "") for each in written if "name" in each})


def _early_stopping(stopping: Mapping[str, Any] | None) -> EarlyStopping | None:
    return None if stopping is None else EarlyStopping(stopping["algorithmName"], _settings(stopping))


def _objective(objective: Mapping[str, Any]) -> Objective:
    goal = objective.get("goal")
    return Objective(
        type=ObjectiveType(objective["type"]),
        metric=objective["objectiveMetricName"],
        goal=None if goal is None else float(goal),
        additional=tuple(filter(None, dict.fromkeys(objective.get("additionalMetricNames", ())))),
        strategies=MappingProxyType(
            {each["name"]: each["value"] for each in reversed(objective["metricStrategies"]) if "name" in each}
        ),
    )


def _template(template: Mapping[str, Any], text: TemplateText) -> TrialTemplate:
    parameters = (TrialParameter(each["name"], each["reference"]) for each in template["trialParameters"])
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
