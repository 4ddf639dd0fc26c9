"""Jobs that Katib refuses because Go writes them in another way."""

from __future__ import annotations

import pytest

from experiments import JOB, PYTORCHJOB, changed, findings_of, only
from katuna.errors import KATIB

CONTAINER = "                image: registry.example/trial:1\n"


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ('env: [{name: A, value: ""}]', "env[0].value"),
        ("volumeMounts: []", "volumeMounts"),
        ("tty: false", "tty"),
        ("ports:", "ports"),
        ('workingDir: ""', "workingDir"),
    ],
)
def test_a_field_that_is_written_and_empty(line: str, field: str) -> None:
    finding = only(findings_of(changed(JOB, CONTAINER, f"{CONTAINER}                {line}\n")))
    assert (finding.code, finding.on) == ("lost-in-conversion", KATIB)
    assert finding.path.endswith(f"containers[0].{field}")
    other = changed(PYTORCHJOB, f"    {CONTAINER}", f"    {CONTAINER}                    {line}\n")
    assert findings_of(other) == [], "Katib passes other kinds on"


POD = "            restartPolicy: Never\n"
LOST = [
    ("ports: [{containerPort: 80, hostPort: 0}]", "ports[0].hostPort"),
    ("livenessProbe: {exec: {command: [a]}, initialDelaySeconds: 0}", "livenessProbe.initialDelaySeconds"),
    ("volumeMounts: [{name: v, mountPath: /v, subPathExpr: ''}]", "volumeMounts[0].subPathExpr"),
    ("securityContext: {capabilities: {drop: []}}", "capabilities.drop"),
]
LOST_OF_POD = [
    ("overhead: {}", "overhead"),
    ("nodeSelector: {a: null}", "nodeSelector.a"),
    ("tolerations: [{key: a, operator: Exists, effect: ''}]", "tolerations[0].effect"),
    ("imagePullSecrets: [{name: ''}]", "imagePullSecrets[0].name"),
    ("securityContext: {supplementalGroups: []}", "supplementalGroups"),
    ("readinessGates: []", "readinessGates"),
    ("dnsConfig: {searches: []}", "dnsConfig.searches"),
    ("volumes: [{name: v, emptyDir: {medium: ''}}]", "emptyDir.medium"),
    ("volumes: [{name: v, configMap: {name: x, items: []}}]", "configMap.items"),
]


@pytest.mark.parametrize(("line", "field"), LOST, ids=[field for _, field in LOST])
def test_fields_of_a_container_that_go_leaves_out(line: str, field: str) -> None:
    lost = [each for each in findings_of(changed(JOB, CONTAINER, f"{CONTAINER}                {line}\n")) if each.on == KATIB]
    assert [(each.code, each.path.endswith(field)) for each in lost] == [("lost-in-conversion", True)]


@pytest.mark.parametrize(("line", "field"), LOST_OF_POD, ids=[field for _, field in LOST_OF_POD])
def test_fields_of_a_pod_that_go_leaves_out(line: str, field: str) -> None:
    finding = only(findings_of(changed(JOB, POD, f"{POD}            {line}\n")))
    assert (finding.code, finding.on, finding.path.endswith(field)) == ("lost-in-conversion", KATIB, True)


@pytest.mark.parametrize(
    "line",
    [
        "livenessProbe: {httpGet: {port: 80, httpHeaders: [{name: X, value: ''}]}}",
        "securityContext: {runAsUser: 0, privileged: false}",
        "restartPolicy: ''",
    ],
)
def test_fields_of_a_container_that_go_keeps(line: str) -> None:
    assert findings_of(changed(JOB, CONTAINER, f"{CONTAINER}                {line}\n")) == []


@pytest.mark.parametrize(
    "line",
    [
        "securityContext: {sysctls: [{name: a, value: ''}]}",
        "volumes: [{name: v, csi: {driver: d, readOnly: false}}]",
        "volumes: [{name: v, hostPath: {path: /d, type: ''}}]",
        "automountServiceAccountToken: false",
    ],
)
def test_fields_of_a_pod_that_go_keeps(line: str) -> None:
    assert findings_of(changed(JOB, POD, f"{POD}            {line}\n")) == []


@pytest.mark.parametrize(
    ("size", "canonical"),
    [("1Gi", True), ("1024Mi", False), ("1000M", False), ("1500M", True), ("5", True), ("1e3", True), ("1e4", False)],
)
def test_a_quantity_that_kubernetes_writes_otherwise(size: str, canonical: bool) -> None:
    volume = f'            volumes: [{{name: v, emptyDir: {{sizeLimit: "{size}"}}}}]\n'
    found = findings_of(changed(JOB, "            restartPolicy: Never\n", f"            restartPolicy: Never\n{volume}"))
    assert [each.code for each in found] == ([] if canonical else ["lost-in-conversion"])


def test_what_katib_does_not_compare() -> None:
    line = "                resources: {limits: {}, requests: {memory: 1024Mi}}\n                securityContext: {}\n"
    assert findings_of(changed(JOB, CONTAINER, CONTAINER + line)) == []
