from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from katuna.log import last_lines, latest_attempt
from katuna.metrics import near
from katuna.metrics.filters import compile_filter
from katuna.metrics.follow import READ_BYTES
from katuna.metrics.near import shown
from katuna.metrics.tail import PIECE_BYTES, LogTail

METRICS = ("loss", "accuracy")


def read_all(tail: LogTail) -> list[tuple[str, str]]:
    found = tail.read()
    while not tail.at_end:
        found += tail.read()
    found += tail.finish()
    return [(report.metric, report.value) for report in found]


def log_of(folder: Path, data: bytes) -> Path:
    path = folder / "log"
    path.write_bytes(data)
    return path


def warnings_of(folder: Path, line: str, *filters: str, metrics: tuple[str, ...] = METRICS) -> tuple[str, ...]:
    tail = LogTail(log_of(folder, line.encode()), metrics, [compile_filter(text) for text in filters])
    read_all(tail)
    return tail.warnings


NO_EXPONENT = r"([\w|-]+)\s*:\s*((-?\d+)(\.\d+)?)"


@pytest.mark.parametrize(
    ("line", "value", "filters"),
    [
        ("loss: 1.5e-05", "1.5", [NO_EXPONENT]),
        ("loss: 2.5e+03", "2.5", [NO_EXPONENT]),
        ("loss: 0.45", "0", [r"(\w+): (\d+)"]),
        ("loss: -0.45", "0.45", [r"(\w+): -?([\d.]+)"]),
        ("loss = 12", "2", [r"(\w+) = .*(\d+)"]),
        ("loss=0,45", "0", []),
        ("loss=1,234.5", "1", []),
        ("loss=1_000", "1", []),
        ("loss=0x1p-2", "0", []),
    ],
)
def test_a_number_that_is_read_short_is_told_with_its_line(tmp_path: Path, line: str, value: str, filters: list[str]) -> None:
    assert warnings_of(tmp_path, f"{line}\n{line}\n", *filters) == (
        f"loss was read as {value}, which is only a part of the number: {line}",
    )


@pytest.mark.parametrize("name", ["train/loss", "reg.loss", "val/head.loss", "größe.loss"])
def test_a_metric_that_is_the_tail_of_a_longer_name_is_told_with_its_line(tmp_path: Path, name: str) -> None:
    line = f"[3/10] {name}=0.5"
    assert warnings_of(tmp_path, f"{line}\nloss=0.25") == (f"loss was read from {name}, a longer name that ends like it: {line}",)


@pytest.mark.parametrize(
    "line",
    [
        "loss=0.25, accuracy=0.5",
        "loss=0.25,accuracy=0.5",
        "loss=25% accuracy=3ms",
        "loss=25. accuracy=.5",
        "INFO:root:loss=0.5",
        "[1/10]loss=1e-3 nan accuracy=nan",
        "2026-01-01 10:00:00,123 loss=-0.5|lr=1",
        "{loss=0.25}",
        "loss=-1",
        "saved to out/net.pt loss=0.5",
    ],
)
def test_a_number_that_is_read_whole_is_not_doubted(tmp_path: Path, line: str) -> None:
    assert warnings_of(tmp_path, line) == ()


def test_follows_a_growing_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = LogTail(path, METRICS)
    assert tail.read() == []
    with path.open("ab", buffering=0) as log:
        log.write(b"loss=0.5\nlo")
        assert [report.value for report in tail.read()] == ["0.5"]
        log.write(b"ss=0.25")
        assert tail.read() == []
        log.write(b" accuracy=0.9\nloss=0.1")
        assert [(r.metric, r.value) for r in tail.read()] == [("loss", "0.25"), ("accuracy", "0.9")]
    assert [report.value for report in tail.finish()] == ["0.1"]
    assert tail.finish() == []


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from([b"loss=0.5\n", b"x", b"\r", b"\xff\xfe", b"\0", "ñ".encode(), b" accuracy=1 ", b"\n"]), max_size=30
    ),
    st.integers(1, 40),
)
def test_how_the_log_grew_does_not_matter(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], step: int) -> None:
    data = b"".join(parts)
    folder = tmp_path_factory.mktemp("log")
    whole = read_all(LogTail(log_of(folder, data), METRICS))
    path = folder / "growing"
    tail, found = LogTail(path, METRICS), []
    with path.open("ab", buffering=0) as log:
        for start in range(0, len(data), step):
            log.write(data[start : start + step])
            found += tail.read()
    found += tail.finish()
    assert [(report.metric, report.value) for report in found] == whole


def test_begins_where_it_is_told(tmp_path: Path) -> None:
    path = log_of(tmp_path, b"loss=1\nloss=2\n")
    assert read_all(LogTail(path, METRICS, offset=7)) == [("loss", "2")]


@pytest.mark.parametrize("value", ["nan", "NaN", "inf", "-Infinity", "1e400"])
def test_nan_and_infinities_are_reports_and_their_line_is_kept(tmp_path: Path, value: str) -> None:
    tail = LogTail(log_of(tmp_path, f"epoch=1 loss={value} accuracy=0.5\n".encode()), METRICS)
    assert read_all(tail) == [("loss", value), ("accuracy", "0.5")]
    assert tail.nearest == (f"epoch=1 loss={value} accuracy=0.5",)


def test_nan_is_read_where_an_own_filter_reads_a_number(tmp_path: Path) -> None:
    own = compile_filter(r"{metricName: ([\w|-]+), metricValue: ((-?\d+)(\.\d+)?)}")
    log = b"{metricName: loss, metricValue: 0.5}\r{metricName: loss, metricValue: nan}\nloss=inf nanloss=3 loss=1.nan\n"
    assert read_all(LogTail(log_of(tmp_path, log), METRICS, [own])) == [("loss", "0.5"), ("loss", "nan")]
    assert read_all(LogTail(log_of(tmp_path, b"info=nano loss=0.5, inf, loss=tensor(nan)"), METRICS)) == [("loss", "0.5")]


@pytest.mark.parametrize("value", ["", "-", "None", "tensor(0.5)", "nano", "infty"])
def test_drops_what_is_no_number_and_keeps_its_line(tmp_path: Path, value: str) -> None:
    tail = LogTail(log_of(tmp_path, f"epoch=1 loss={value}\n".encode()), METRICS)
    assert read_all(tail) == []
    assert tail.nearest == (f"epoch=1 loss={value}",)


def test_reads_bytes_that_nobody_checked(tmp_path: Path) -> None:
    data = b"\xff\xfe\0 loss=0.5 \x80\n\x1b[31m loss=0.4\x1b[0m\n10%|#| loss=0.3\r20%|##| loss=0.2\r\n"
    assert [value for _, value in read_all(LogTail(log_of(tmp_path, data), METRICS))] == ["0.5", "0.4", "0.3", "0.2"]


def test_a_line_without_end_costs_no_memory_and_hides_nothing(tmp_path: Path) -> None:
    """10 MB without a newline, metrics in it and behind it."""
    block = b"x" * 5_000 + b" loss=0.5 " + b"y" * 95_000
    tail = LogTail(log_of(tmp_path, block * 100 + b"\nloss=0.25\n"), METRICS)
    tracemalloc.start()
    found = read_all(tail)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [value for _, value in found] == ["0.5"] * 100 + ["0.25"]
    assert peak < 40 * READ_BYTES


def test_the_end_of_a_log_that_is_no_file_is_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "link").symlink_to(__file__)
    for name in ("pipe", "zero", "link"):
        assert (last_lines(tmp_path / name), latest_attempt(tmp_path / name)) == ([], 0)


def test_a_progress_bar_longer_than_a_piece_is_read_to_its_end(tmp_path: Path) -> None:
    bar = b"".join(b"\r%3d/1000 loss=%.4f" % (step, 1 / step) for step in range(1, 1001))
    assert len(bar) > 2 * PIECE_BYTES
    values = [float(value) for _, value in read_all(LogTail(log_of(tmp_path, bar), METRICS))]
    assert values == [float(f"{1 / step:.4f}") for step in range(1, 1001)]


def test_an_own_filter_cannot_hang_the_search(tmp_path: Path) -> None:
    """Such as this one, which takes a backtracking engine minutes on 4096 letters."""
    tail = LogTail(
        log_of(tmp_path, b"x" * 2000 + b"loss" + b"x" * 2092 + b" loss: 3\nloss: 4"),
        METRICS,
        [compile_filter(r".*?(\w+)\s*:\s*(\d+)")],
    )
    assert [value for _, value in read_all(tail)] == ["3", "4"]


def test_own_filters_replace_the_default(tmp_path: Path) -> None:
    tail = LogTail(log_of(tmp_path, b"loss: 0.5\nloss=0.4\n"), METRICS, [compile_filter(r"([\w|-]+)\s*:\s*([+-]?\d*(\.\d+)?)")])
    assert read_all(tail) == [("loss", "0.5")]


def test_keeps_the_lines_with_the_likest_names(tmp_path: Path) -> None:
    data = b"start: 10:00:01\nval_loss=0.7 epoch=1\nLoss: 0.5\nLoss: 0.4\nlr=0.1\nsee http://example.com/loss\n{'los': 0.5}\n"
    tail = LogTail(log_of(tmp_path, data), METRICS)
    assert read_all(tail) == []
    assert set(tail.nearest) == {"Loss: 0.5", "{'los': 0.5}", "val_loss=0.7 epoch=1"}


def test_the_objectives_own_name_comes_first(tmp_path: Path) -> None:
    data = b"losss=0.1\nlos=0.2\nloss2=0.3\nepoch 3: loss = nan\n"
    tail = LogTail(log_of(tmp_path, data), METRICS)
    read_all(tail)
    assert tail.nearest[0] == "epoch 3: loss = nan"
    assert len(tail.nearest) == 3


def test_a_coloured_name_is_near(tmp_path: Path) -> None:
    """Katib's filter takes the end of the colour for a part of the name, and so do we."""
    tail = LogTail(log_of(tmp_path, b"\x1b[31mloss=0.5\x1b[0m\n"), METRICS)
    assert read_all(tail) == []
    assert tail.nearest == ("\\x1b[31mloss=0.5\\x1b[0m",)


def test_nothing_is_near_once_the_objective_was_found(tmp_path: Path) -> None:
    tail = LogTail(log_of(tmp_path, b"losss=0.1\nloss=0.5\nlosss=0.3\n"), METRICS)
    read_all(tail)
    assert tail.nearest == ()


def test_near_lines_are_few_short_and_harmless(tmp_path: Path) -> None:
    names = b"".join(b"\x1b[2Jm%d=1\n" % number for number in range(10_000))
    tail = LogTail(log_of(tmp_path, names + b"z" * 300 + b" losss=1 " + b"\x07" * 300), METRICS)
    read_all(tail)
    assert len(tail.nearest) == 3
    assert all(len(text) <= 100 and text.isprintable() for text in tail.nearest)
    assert len(tail._sieve._near._lines) <= near._NAMES + 1  # type: ignore[union-attr]


def test_the_last_lines_tell_the_story(tmp_path: Path) -> None:
    path = log_of(tmp_path, b"first\nTraceback\n  File x\nValueError: \x1b[31mbad\xff\n\n-----\n")
    assert last_lines(path) == ["  File x", "ValueError: \\x1b[31mbad�"]
    assert last_lines(path, offset=path.stat().st_size) == []
    assert last_lines(tmp_path / "none") == []


def test_the_last_line_of_a_log_without_lines_is_short(tmp_path: Path) -> None:
    (line,) = last_lines(log_of(tmp_path, b"x" * 10_000_000))
    assert line == "x" * 199 + "…"


def test_shown_text_obeys_no_terminal() -> None:
    assert shown(" a\x1b]0;title\x07\n\u202eb ", 50) == "a\\x1b]0;title\\x07\\n\\u202eb"
