"""Jobs that Katib refuses because Go writes them in another way."""

from __future__ import annotations

import pytest
from spec_examples import JOB, PYTORCHJOB, changed, findings_of, only

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


@pytest.mark.parametrize(
    ("size", "canonical"), [("1Gi", True), ("1024Mi", False), ("1000M", False), ("1500M", True), ("5", True)]
)
def test_a_quantity_that_kubernetes_writes_otherwise(size: str, canonical: bool) -> None:
    volume = f'            volumes: [{{name: v, emptyDir: {{sizeLimit: "{size}"}}}}]\n'
    found = findings_of(changed(JOB, "            restartPolicy: Never\n", f"            restartPolicy: Never\n{volume}"))
    assert [each.code for each in found] == ([] if canonical else ["lost-in-conversion"])


def test_what_katib_does_not_compare() -> None:
    line = "                resources: {limits: {}, requests: {memory: 1024Mi}}\n                securityContext: {}\n"
    assert findings_of(changed(JOB, CONTAINER, CONTAINER + line)) == []
