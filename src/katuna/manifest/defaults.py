"""The Experiment as Katib's defaulting webhook would store it (katib.md 1.2-1.5): unknown and empty fields dropped, defaults in."""

from __future__ import annotations

import copy
from typing import Any

from katuna.manifest.experiment import Manifest
from katuna.manifest.fields import examine

EXPERIMENT = "kubeflow.org/v1beta1 Experiment"

_CONDITION = 'status.conditions.#(type=="{type}")#|#(status=="True")#'
_MASTER = {"training.kubeflow.org/job-role": "master"}
_FIRST_NODE = {"jobset.sigs.k8s.io/replicatedjob-name": "node", "batch.kubernetes.io/job-completion-index": "0"}

_TEMPLATE_DEFAULTS: dict[str, tuple[str, dict[str, str]]] = {
    "Job": ("Complete", {}),
    "TrainJob": ("Complete", _FIRST_NODE),
    **dict.fromkeys(("TFJob", "PyTorchJob", "XGBoostJob", "MPIJob"), ("Succeeded", _MASTER)),
}
"""By kind, whatever the apiVersion: the condition that means success, and the labels of the pod that reports metrics."""

KINDS_WITH_DEFAULTS = tuple(_TEMPLATE_DEFAULTS)

_FILE_SYSTEM_DEFAULTS = {
    "File": {"kind": "File", "path": "/var/log/katib/metrics.log", "format": "TEXT"},
    "TensorFlowEvent": {"kind": "Directory", "path": "/var/log/katib/tfevent/"},
}


def with_defaults(manifest: Manifest) -> Manifest:
    """The manifest as Katib would store it. Pure. Values of a wrong type are dropped: `load` reports them first."""
    experiment: dict[str, Any] = _without_empty(examine(manifest, EXPERIMENT).known)
    experiment.pop("status", None)
    spec = experiment.setdefault("spec", {})
    trial_spec = manifest.get("spec", {}).get("trialTemplate", {}) if isinstance(manifest.get("spec"), dict) else {}
    if isinstance(trial_spec, dict) and isinstance(trial_spec.get("trialSpec"), dict):
        spec["trialTemplate"]["trialSpec"] = copy.deepcopy(trial_spec["trialSpec"])
    spec.setdefault("parallelTrialCount", 3)
    spec.setdefault("resumePolicy", "Never")
    for parameter in spec.get("parameters", []):
        parameter.setdefault("feasibleSpace", {}).setdefault("distribution", "uniform")
    if "objective" in spec:
        _default_strategies(spec["objective"])
    if "trialTemplate" in spec:
        _default_template(spec["trialTemplate"])
    _default_collector(spec.setdefault("metricsCollectorSpec", {}))
    return experiment


def _without_empty(value: Any, name: str = "") -> Any:
    """Go's omitempty: empty texts, lists, maps and truth values are dropped; numbers and objects are pointers and stay."""
    if isinstance(value, list):
        return [_without_empty(item) for item in value]
    if not isinstance(value, dict) or name == "trialSpec":
        return value
    kept = {key: _without_empty(child, key) for key, child in value.items()}
    maps = ("labels", "annotations", "primaryPodLabels")
    return {
        key: child for key, child in kept.items() if not (child in ("", []) or child is False or (child == {} and key in maps))
    }


def _default_strategies(objective: dict[str, Any]) -> None:
    """The additional metrics get the objective's strategy too, not `latest`."""
    strategies: list[dict[str, str]] = objective.setdefault("metricStrategies", [])
    named = {strategy.get("name", "") for strategy in strategies}
    value = {"minimize": "min", "maximize": "max"}.get(objective.get("type", ""), "latest")
    for metric in (objective.get("objectiveMetricName", ""), *objective.get("additionalMetricNames", [])):
        if metric not in named:
            strategies.append({"name": metric, "value": value} if metric else {"value": value})


def _default_template(template: dict[str, Any]) -> None:
    trial_spec = template.get("trialSpec")
    kind = trial_spec.get("kind") if trial_spec else None
    if not isinstance(kind, str) or kind not in _TEMPLATE_DEFAULTS:
        return
    success, labels = _TEMPLATE_DEFAULTS[kind]
    template.setdefault("successCondition", _CONDITION.format(type=success))
    template.setdefault("failureCondition", _CONDITION.format(type="Failed"))
    if labels:
        template.setdefault("primaryPodLabels", dict(labels))


def _default_collector(collector_spec: dict[str, Any]) -> None:
    collector = collector_spec.setdefault("collector", {"kind": "StdOut"})
    if "customCollector" in collector:
        collector["customCollector"].setdefault("resources", {})
    kind = collector.get("kind")
    if kind in _FILE_SYSTEM_DEFAULTS:
        path = collector_spec.setdefault("source", {}).setdefault("fileSystemPath", {})
        for name, value in _FILE_SYSTEM_DEFAULTS[kind].items():
            path.setdefault(name, value)
    elif kind == "PrometheusMetric":
        get = collector_spec.setdefault("source", {}).setdefault("httpGet", {})
        get.setdefault("path", "/metrics")
        get.setdefault("port", 8080)
