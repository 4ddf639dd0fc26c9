"""Writes src/katuna/manifest/fields.json: the field names and JSON types of the kinds that katuna reads.

    python tools/make_fields.py CRDS > src/katuna/manifest/fields.json

CRDS is a folder with the CustomResourceDefinition files of the Training Operator (kubeflow.org_pytorchjobs.yaml) and of
Kubeflow Trainer (trainer.kubeflow.org_trainjobs.yaml, trainer.kubeflow.org_trainingruntimes.yaml). The last holds batch/v1's
JobSpec and PodTemplateSpec whole. Katib's Experiment has no schema in its CRD: its fields stand below, from its Go types.

A type is "string", "int32", "int64", "number", "bool", "quantity", "intOrString", "any", "#Name" (a definition), ["list of"],
{"*": "map of"} or {"field": "type", ...}. A field's name ends in "!" where the schema demands the field.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

SCALARS = {"string": "string", "boolean": "bool", "number": "number", "integer": "int64", "object": "any"}

OBJECT_META = {
    **dict.fromkeys(("name", "generateName", "namespace", "uid", "resourceVersion", "selfLink"), "string"),
    **dict.fromkeys(("creationTimestamp", "deletionTimestamp"), "string"),
    **dict.fromkeys(("generation", "deletionGracePeriodSeconds"), "int64"),
    "labels": {"*": "string"},
    "annotations": {"*": "string"},
    "finalizers": ["string"],
    "ownerReferences": ["any"],
    "managedFields": ["any"],
}
SETTING = {"name": "string", "value": "string"}
FEASIBLE_SPACE = {"min": "string", "max": "string", "step": "string", "list": ["string"], "distribution": "string"}
PARAMETER = {"name": "string", "parameterType": "string", "feasibleSpace": FEASIBLE_SPACE}
ALGORITHM = {"algorithmName": "string", "algorithmSettings": [SETTING]}
OBJECTIVE = {
    "type": "string",
    "goal": "number",
    "objectiveMetricName": "string",
    "additionalMetricNames": ["string"],
    "metricStrategies": [SETTING],
}
HTTP_GET = {
    "path": "string",
    "port": "intOrString",
    "host": "string",
    "scheme": "string",
    "httpHeaders": [SETTING],
}
METRICS_COLLECTOR = {
    "source": {
        "httpGet": HTTP_GET,
        "fileSystemPath": {"path": "string", "kind": "string", "format": "string"},
        "filter": {"metricsFormat": ["string"]},
    },
    "collector": {"kind": "string", "customCollector": "#Container"},
}
TRIAL_TEMPLATE = {
    "retain": "bool",
    "trialSpec": {"*": "any"},
    "configMap": {"configMapName": "string", "configMapNamespace": "string", "templatePath": "string"},
    "trialParameters": [{"name": "string", "description": "string", "reference": "string"}],
    "primaryPodLabels": {"*": "string"},
    "primaryContainerName": "string",
    "successCondition": "string",
    "failureCondition": "string",
}
NAS_CONFIG = {
    "graphConfig": {"numLayers": "int32", "inputSizes": ["int32"], "outputSizes": ["int32"]},
    "operations": [{"operationType": "string", "parameters": ["#Parameter"]}],
}
EXPERIMENT_SPEC = {
    "parameters": ["#Parameter"],
    "objective": OBJECTIVE,
    "algorithm": ALGORITHM,
    "earlyStopping": ALGORITHM,
    "trialTemplate": TRIAL_TEMPLATE,
    "parallelTrialCount": "int32",
    "maxTrialCount": "int32",
    "maxFailedTrialCount": "int32",
    "metricsCollectorSpec": METRICS_COLLECTOR,
    "nasConfig": NAS_CONFIG,
    "resumePolicy": "string",
}


def main(crds: Path) -> None:
    runtime = schema(crds / "trainer.kubeflow.org_trainingruntimes.yaml")["spec"]
    job = runtime["template"]["spec"]["replicatedJobs"][0]["template!"]["spec"]
    template = job["template!"] | {"metadata": "#ObjectMeta"}
    container = template["spec"]["containers!"][0]
    runtime["template"]["spec"]["replicatedJobs"][0]["template!"]["spec"] = "#JobSpec"
    pytorchjob = schema(crds / "kubeflow.org_pytorchjobs.yaml")["spec"]
    pytorchjob["pytorchReplicaSpecs!"]["*"]["template"] = "#PodTemplateSpec"
    definitions = {
        "ObjectMeta": OBJECT_META,
        "Parameter": PARAMETER,
        "Container": container,
        "PodTemplateSpec": template,
        "JobSpec": job | {"template!": "#PodTemplateSpec"},
        "PyTorchJobSpec": pytorchjob,
        "TrainJobSpec": schema(crds / "trainer.kubeflow.org_trainjobs.yaml")["spec"],
        "RuntimeSpec": runtime,
    }
    kinds = {
        "kubeflow.org/v1beta1 Experiment": {"spec": EXPERIMENT_SPEC, "status": "any"},
        "batch/v1 Job": {"spec": "#JobSpec", "status": "any"},
        "kubeflow.org/v1 PyTorchJob": {"spec": "#PyTorchJobSpec", "status": "any"},
        "trainer.kubeflow.org/v1alpha1 TrainJob": {"spec": "#TrainJobSpec", "status": "any"},
        "trainer.kubeflow.org/v1alpha1 TrainingRuntime": {"spec": "#RuntimeSpec"},
        "trainer.kubeflow.org/v1alpha1 ClusterTrainingRuntime": {"spec": "#RuntimeSpec"},
        # What is in a Secret is checked where no message shows it.
        "v1 Secret": {"data": "any", "stringData": "any", "type": "string", "immutable": "bool"},
        "v1 ConfigMap": {"data": {"*": "string"}, "binaryData": {"*": "string"}, "immutable": "bool"},
    }
    top = {"apiVersion": "string", "kind": "string", "metadata": "#ObjectMeta"}
    hoisted = hoist({"definitions": definitions, "kinds": {name: top | fields for name, fields in kinds.items()}})
    json.dump(hoisted, sys.stdout, separators=(",", ":"), sort_keys=True)
    sys.stdout.write("\n")


def schema(crd: Path) -> dict[str, Any]:
    """The fields of the newest version in a CRD file."""
    loaded = yaml.load(crd.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    types: dict[str, Any] = types_of(loaded["spec"]["versions"][-1]["schema"]["openAPIV3Schema"])
    return types


def types_of(node: dict[str, Any]) -> Any:
    if node.get("x-kubernetes-int-or-string"):
        return "quantity" if "pattern" in node else "intOrString"
    if "properties" in node:
        # Where a default stands the API server fills the field in.
        demanded = {name for name in node.get("required", ()) if "default" not in node["properties"][name]}
        return {name + "!" * (name in demanded): types_of(child) for name, child in node["properties"].items()}
    if "additionalProperties" in node:
        return {"*": types_of(node["additionalProperties"])}
    if node.get("type") == "array":
        return [types_of(node["items"])]
    if node.get("type") == "integer" and node.get("format") == "int32":
        return "int32"
    return SCALARS[node["type"]]


def hoist(whole: dict[str, Any]) -> dict[str, Any]:
    """Objects that occur several times become definitions, the largest first, until none is worth it."""
    while True:
        counted: Counter[str] = Counter()
        count(whole, counted)
        worth = [text for text, times in counted.items() if times > 1 and (times - 1) * len(text) > 200]
        if not worth:
            return whole
        text = max(worth, key=len)
        known = {json.dumps(fields, sort_keys=True): name for name, fields in whole["definitions"].items()}
        name = known.get(text, f"d{len(whole['definitions'])}")
        whole = {
            part: {key: swap(value, text, f"#{name}", top=part == "definitions") for key, value in whole[part].items()}
            for part in whole
        }
        whole["definitions"][name] = json.loads(text)


def count(node: Any, counted: Counter[str]) -> None:
    if isinstance(node, dict):
        if all(isinstance(name, str) and not name[0].isupper() for name in node) and "definitions" not in node and node:
            counted[json.dumps(node, sort_keys=True)] += 1
        for child in node.values():
            count(child, counted)
    elif isinstance(node, list):
        for child in node:
            count(child, counted)


def swap(node: Any, text: str, reference: str, top: bool = False) -> Any:
    if isinstance(node, dict):
        if not top and json.dumps(node, sort_keys=True) == text:
            return reference
        return {name: swap(child, text, reference) for name, child in node.items()}
    return [swap(child, text, reference) for child in node] if isinstance(node, list) else node


if __name__ == "__main__":
    main(Path(sys.argv[1]))
