from __future__ import annotations

from pathlib import Path

import pytest

from katuna.metric_line import Report
from katuna.metrics.jsonlines import LINE_BYTES, JsonTail, katib_json

METRICS = ("loss", "accuracy")


def reports_of(folder: Path, data: bytes) -> list[Report]:
    path = folder / "metrics.json"
    path.write_bytes(data)
    tail = JsonTail(path, METRICS, katib_json)
    found = tail.read()
    while not tail.at_end:
        found += tail.read()
    found += tail.finish()
    tail.close()
    return found


def test_numbers_and_texts_keep_the_form_that_the_trial_gave_them(tmp_path: Path) -> None:
    data = b'{"loss": 1.50e-3, "accuracy": "0.90"}\n{"loss": 7}\n{"loss": NaN, "accuracy": true}\n{"loss": null}\n'
    assert [(report.metric, report.value) for report in reports_of(tmp_path, data)] == [
        ("loss", "1.50e-3"),
        ("accuracy", "0.90"),
        ("loss", "7"),
        ("loss", "NaN"),
    ]


def test_noise_is_skipped(tmp_path: Path) -> None:
    noise = (
        b'INFO starting\n[1, 2]\n"loss"\n{"loss": \n' + b"[" * 100_000 + b"\n\xff\xfe\n{}\n" + b'{"loss": ' + b"9" * 6000 + b"}\n"
    )
    assert [report.value for report in reports_of(tmp_path, noise + b'{"loss": 0.5}\n')] == ["0.5"]


def test_a_whole_object_without_an_end_of_line_counts(tmp_path: Path) -> None:
    assert [report.value for report in reports_of(tmp_path, b'{"loss": 0.5}\n{"loss": 0.25}')] == ["0.5", "0.25"]
    assert [report.value for report in reports_of(tmp_path, b'{"loss": 0.5}\n{"loss": 0.25')] == ["0.5"]


def test_a_line_that_does_not_end_takes_no_memory(tmp_path: Path) -> None:
    long = b'{"x": "' + b"y" * (3 * LINE_BYTES) + b'{"loss": 3}'
    assert [report.value for report in reports_of(tmp_path, long + b'\n{"loss": 0.5}\n')] == ["0.5"]
    assert reports_of(tmp_path, long) == []


@pytest.mark.parametrize(
    ("stamp", "time_us"),
    [
        ('"2021-12-02T05:27:27.5Z"', 1638422847_500000),
        ("1638422847", 1638422847_000000),
        ("1638422847.28721", 1638422847_000028),
        ("1638422847.5", 1638422847_000000),
        ("1.638422847e9", 1638422847_000000),
        ("1e400", None),
        ("-1e300", None),
        ("NaN", None),
        ('"1638422847"', None),
        ('"yesterday"', None),
        ("[1]", None),
        ("true", None),
    ],
)
def test_timestamps(tmp_path: Path, stamp: str, time_us: int | None) -> None:
    """Behind the point are nanoseconds, as Katib has it."""
    (report,) = reports_of(tmp_path, b'{"loss": 1, "timestamp": %s}\n' % stamp.encode())
    assert report.time_us == time_us


def test_names_that_came_near(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_bytes(b'{"epoch": 1, "Loss": "0.5"}\n')
    tail = JsonTail(path, METRICS, katib_json)
    assert tail.read() == []
    assert tail.nearest == ('{"epoch": 1, "Loss": "0.5"}',)
    tail.close()
