from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from katuna import metric_line as line_module
from katuna.metric_line import DEFAULT_FILTER, KATIB_FILTER, Report, metric_line, read_metrics, report
from katuna.metrics.filters import compile_filter
from recordings import KATIB_TRUTH

TRUTH = KATIB_TRUTH / "metric-lines.jsonl"
ZERO_TIME = "0001-01-01T00:00:00Z"
NAMES = st.from_regex(r"[A-Za-z0-9_|-]{1,12}", fullmatch=True)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**300), 10**300) | st.booleans()


def recorded() -> list[Any]:
    cases = [json.loads(text) for text in TRUTH.read_text(encoding="utf-8").splitlines()]
    return [pytest.param(case, id=case["id"]) for case in cases if case["format"] == "TEXT"]


def microseconds(text: str) -> int | None:
    """Katib's own time text, cut to microseconds; an independent reading of it."""
    if text == ZERO_TIME:
        return None
    whole, _, fraction = text.removesuffix("Z").partition(".")
    seconds = int(datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC).timestamp())
    return seconds * 1_000_000 + int(fraction[:6].ljust(6, "0"))


@pytest.mark.parametrize("case", recorded())
def test_reads_what_katib_reads(case: dict[str, Any]) -> None:
    filters = [compile_filter(text) for text in case["filters"]] or [DEFAULT_FILTER]
    found = [report for text in case["text"].split("\n") for report in read_metrics(text, case["metrics"], filters)]
    if not any(report.metric == case["metrics"][0] for report in found):
        found = [Report(case["metrics"][0], "unavailable")]
    assert found == [Report(log["name"], log["value"], microseconds(log["t"])) for log in case["logs"]]


@settings(deadline=None)
@given(st.dictionaries(NAMES, NUMBERS, min_size=1, max_size=5), st.none() | st.integers(0, 4_000_000_000_000_000))
def test_reads_back_exactly_what_the_writer_wrote(values: dict[str, float], time_us: int | None) -> None:
    text = metric_line(values, time=None if time_us is None else time_us / 1_000_000)
    found = read_metrics(text, tuple(values))
    assert {report.metric: float(report.value) for report in found} == {name: float(value) for name, value in values.items()}
    assert len(found) == len(values)
    # A float holds microseconds of these years to within one.
    assert all((r.time_us is None) == (time_us is None) and abs((r.time_us or 0) - (time_us or 0)) <= 1 for r in found)


@settings(deadline=None)
@given(st.text(st.sampled_from("ab|- =\t+-.0159eE,:"), max_size=60))
def test_the_linear_filter_finds_what_katibs_finds(text: str) -> None:
    plain = [(match[1], match[2]) for match in re.finditer(KATIB_FILTER, text, re.ASCII)]
    assert [(match[1], match[2]) for match in DEFAULT_FILTER.finditer(text) if match[1] is not None] == plain
    assert compile_filter(KATIB_FILTER) is DEFAULT_FILTER


def test_the_default_filter_takes_linear_time() -> None:
    def seconds(text: str) -> float:
        start = time.process_time()
        assert read_metrics(text, ("loss",)) == []
        return time.process_time() - start

    # 16 times the text; quadratic time would make this a factor of 256.
    small = min(seconds("loss" * 2**15) for _ in range(5))
    assert min(seconds("loss" * 2**19) for _ in range(3)) < 100 * small


@pytest.mark.parametrize("name", ["", "val loss", "val/loss", "verlust.ß", "größe", "a=b", "loss\n", "loss;x"])
def test_refuses_a_name_that_the_filter_would_not_read(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(name))):
        metric_line({name: 1.0})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10**400])
def test_refuses_a_value_that_is_no_finite_number(value: float) -> None:
    with pytest.raises(ValueError, match=r"'loss'.*only finite"):
        metric_line({"accuracy": 0.5, "loss": value})


def test_refuses_an_empty_line() -> None:
    with pytest.raises(ValueError, match="at least one"):
        metric_line({})


def test_a_timestamp_is_utc_with_microseconds() -> None:
    assert metric_line({"loss": 1e-05}, time=1_764_000_000.25) == "2025-11-24T16:00:00.250000Z loss=1e-05"


@pytest.mark.parametrize(
    ("stamp", "time_us"),
    [
        ("2026-11-23T10:00:01+02:00", 1_795_420_801_000_000),
        ("2026-11-23T10:00:01.1234567-00:30", 1_795_429_801_123_456),
        ("2026-11-23T24:00:01Z", None),
        ("2026-02-30T10:00:01Z", None),
        ("2026-11-23T10:00:01", None),
        ("2026-11-23t10:00:01z", None),
    ],
)
def test_timestamps(stamp: str, time_us: int | None) -> None:
    (found,) = read_metrics(f"{stamp} loss=1", ("loss",))
    assert found.time_us == time_us


def test_a_filter_of_too_few_groups_finds_nothing() -> None:
    assert read_metrics("loss=1", ("loss",), [compile_filter(r"(loss)=\d")]) == []


def test_report_writes_one_line_at_once() -> None:
    class Stream(io.StringIO):
        calls: list[str] = []  # noqa: RUF012

        def write(self, text: str) -> int:
            self.calls.append(text)
            return super().write(text)

        def flush(self) -> None:
            self.calls.append("flush")

    stream = Stream()
    report({"epoch": 3, "loss": 0.25}, file=stream)
    assert stream.calls == ["epoch=3 loss=0.25\n", "flush"]


def test_a_trainer_can_use_the_file_alone() -> None:
    """No other module of katuna, and nothing that is not in the standard library."""
    code = f"import runpy; runpy.run_path({line_module.__file__!r})['report']({{'loss': 0.5}})"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "loss=0.5\n"
