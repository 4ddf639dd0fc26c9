"""The File and StdOut readers beside what Katib's own collector read in the same texts."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from katuna.manifest.experiment import Collector
from katuna.metric_line import Report
from katuna.metrics.collect import Collecting
from recordings import KATIB_TRUTH

TRUTH = KATIB_TRUTH / "metric-lines.jsonl"
PATH = "/var/log/katib/metrics.log"

NO_NUMBER = "what is no number is dropped (katib.md 10, B11); Katib stores the text, often an empty one"
DIVERGED = "nan and infinities are read as what they are; Katib stores an empty text, or one that its search cannot read"
DIFFERENT: dict[str, tuple[str, list[str] | None]] = {
    "value-Inf": (DIVERGED, ["Inf"]),
    "value-nan": (DIVERGED, ["nan"]),
    "value-none": (NO_NUMBER, None),
    "value-empty": (NO_NUMBER, None),
    "value-paren": (NO_NUMBER, None),
    "value-signs": (NO_NUMBER, None),
    "valid-then-invalid": (DIVERGED, ["0.5", "nan"]),
    "json-text-value": (NO_NUMBER, None),
    "json-numbers": ("numbers in JSON count", ["0.5"]),
    "json-array": ("a line of JSON that is no object is skipped; Katib gives up the file", None),
    "json-torn": ("a line of JSON that is no object is skipped; Katib gives up the file", ["0.5"]),
}
"""Where this differs on purpose: why, and the values of the objective that are read here (None: none)."""


def cases() -> list[dict[str, Any]]:
    return [json.loads(line) for line in TRUTH.read_text().splitlines()]


def reports_of(case: dict[str, Any], folder: Path) -> list[Report]:
    collector = Collector("File", tuple(case["filters"]), PATH, case["format"])
    source = Collecting(tuple(case["metrics"]), collector).source(folder, folder / "log", 0)
    (folder / "metrics.log").write_bytes(case["text"].encode())
    reports = source.read()
    assert source.at_end
    reports += source.finish()
    source.close()
    return reports


def moment(time_us: int | None) -> str:
    """As Katib's database keeps it: without a time, its first year; no more than microseconds."""
    if time_us is None:
        return "0001-01-01T00:00:00.000000"
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)).strftime("%Y-%m-%dT%H:%M:%S.%f")


def cut(stamp: str) -> str:
    whole, _, fraction = stamp.removesuffix("Z").partition(".")
    return f"{whole}.{fraction[:6]:0<6}"


@pytest.mark.parametrize("case", [case for case in cases() if case["format"] in ("TEXT", "JSON")], ids=lambda case: case["id"])
def test_reads_what_katib_reads(case: dict[str, Any], tmp_path: Path) -> None:
    reports, objective = reports_of(case, tmp_path), case["metrics"][0]
    if case["id"] in DIFFERENT:
        _, expected = DIFFERENT[case["id"]]
        assert [report.value for report in reports if report.metric == objective] == (expected or [])
        assert "error" in case or [log["value"] for log in case["logs"] if log["name"] == objective] != (expected or [])
        return
    found = [(report.metric, moment(report.time_us), report.value) for report in reports]
    if not any(name == objective for name, _, _ in found):
        # Katib drops everything then; here the trial is MetricsUnavailable, whatever else it reported.
        found = [(objective, moment(None), "unavailable")]
    assert found == [(log["name"], cut(log["t"]), log["value"]) for log in case["logs"]]


def test_every_listed_difference_is_a_recorded_text() -> None:
    ids = [case["id"] for case in cases()]
    assert len(ids) == len(set(ids)) == 84
    assert set(DIFFERENT) <= set(ids)
