"""TensorBoard event files, beside TensorBoard's own reading of them by Katib's rules."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from katuna.metric_line import Report
from katuna.metrics.tensorboard import EventFiles

FOLDER = "/var/log/katib/tfevent"
METRICS = ("loss", "val/accuracy")


def an_event(tag: str, value: object, wall_time: float = 1_700_000_000.75, *, tensor: bool = False) -> bytes:
    """A record of an event file, framed."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.util.tensor_util import make_tensor_proto

    one = Summary.Value(tag=tag, tensor=make_tensor_proto(value)) if tensor else Summary.Value(tag=tag, simple_value=value)
    return framed(Event(wall_time=wall_time, step=1, summary=Summary(value=[one])).SerializeToString())


def framed(record: bytes) -> bytes:
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    head = struct.pack("<Q", len(record))
    return head + struct.pack("<I", masked_crc32c(head)) + record + struct.pack("<I", masked_crc32c(record))


def put(folder: Path, name: str, *records: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(b"".join(records))
    return path


def read_all(source: EventFiles) -> list[Report]:
    found = source.read()
    while not source.at_end:
        found += source.read()
    return found + source.finish()


def values(source: EventFiles) -> list[tuple[str, str]]:
    return [(report.metric, report.value) for report in read_all(source)]


def by_katibs_rules(folder: Path, metrics: tuple[str, ...]) -> list[tuple[str, str, int]]:
    """Katib.md 4.4 in so many words, over TensorBoard's accumulator; one file after the other by name."""
    from tensorboard.backend.event_processing.event_accumulator import TENSORS, EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        accumulator = EventAccumulator(str(path), size_guidance={TENSORS: 0, "scalars": 0})
        accumulator.Reload()
        place = f"{FOLDER}/{path.parent.relative_to(folder)}".removesuffix("/.")
        for kind in ("tensors", "scalars"):
            for tag in accumulator.Tags()[kind]:
                for metric in metrics:
                    if tag.startswith(metric.split("/")[-1]) and place.endswith(os.path.dirname(metric)):  # noqa: PTH120
                        events = accumulator.Tensors(tag) if kind == "tensors" else accumulator.Scalars(tag)
                        for event in events:
                            text = str(make_ndarray(event.tensor_proto)) if kind == "tensors" else str(event.value)
                            found.append((metric, text, int(event.wall_time)))
    return found


def test_agrees_with_tensorboard_by_katibs_rules(tmp_path: Path) -> None:
    put(tmp_path, "train/events.out.tfevents.1", an_event("loss", 0.1), an_event("loss", 0.05, 1_700_000_002.2))
    put(tmp_path, "val/events.out.tfevents.2", an_event("accuracy", np.float32(0.1), tensor=True), an_event("loss_val", 0.3))
    put(
        tmp_path,
        "deep/val/events.out.tfevents.3",
        an_event("other", 3.0),
        an_event("loss", 0.2),
        an_event("accuracy_top5", np.float32(1e-10), tensor=True),
        an_event("accuracy", 0.7),
    )
    found = [
        (report.metric, report.value, (report.time_us or 0) // 1_000_000)
        for report in read_all(EventFiles(tmp_path, METRICS, FOLDER))
    ]
    expected = by_katibs_rules(tmp_path, METRICS)
    assert sorted(found) == sorted(expected)
    assert ("val/accuracy", "0.1", 1_700_000_000) in found
    assert ("loss", "0.10000000149011612", 1_700_000_000) in found
    assert [each for each in found if each[0] == "val/accuracy"] == [
        ("val/accuracy", "1e-10", 1_700_000_000),
        ("val/accuracy", "0.699999988079071", 1_700_000_000),
        ("val/accuracy", "0.1", 1_700_000_000),
    ]


def test_the_folder_of_a_metric_may_be_the_collectors_own(tmp_path: Path) -> None:
    """It lies under another name here."""
    put(tmp_path, "events.out.tfevents.1", an_event("loss", 0.5))
    assert values(EventFiles(tmp_path, ("tfevent/loss",), f"{FOLDER}/")) == [("tfevent/loss", "0.5")]
    assert values(EventFiles(tmp_path, ("else/loss",), FOLDER)) == []


def test_files_grow_by_less_than_a_record(tmp_path: Path) -> None:
    source, found = EventFiles(tmp_path / "late", METRICS, FOLDER), []
    assert source.read() == []
    data = b"".join(an_event("loss", step / 8) for step in range(5))
    for start in range(0, len(data), 7):
        put(tmp_path / "late", "x", data[start : start + 7])
        found += source.read()
    assert [report.value for report in found] == ["0.0", "0.125", "0.25", "0.375", "0.5"]
    assert source.finish() == []


def test_a_little_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("katuna.metrics.tensorboard.READ_BYTES", 100)
    put(tmp_path, "x", *(an_event("loss", step) for step in range(20)))
    source = EventFiles(tmp_path, METRICS, FOLDER)
    assert 0 < len(source.read()) < 20
    assert not source.at_end
    assert len(read_all(source)) > 10
    assert source.read() == []


def test_all_files_together_are_a_little_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("katuna.metrics.tensorboard.READ_BYTES", 100)
    for name in "abcdefgh":
        put(tmp_path, name, *(an_event("loss", step) for step in range(5)))
    source, found = EventFiles(tmp_path, METRICS, FOLDER), list[str]()
    while not source.at_end:
        some = [report.value for report in source.read()]
        assert len(some) < 8
        found += some
    assert found == [f"{step}.0" for step in range(5)] * 8


def test_of_a_million_files_the_first_are_read_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("katuna.metrics.tensorboard.MOST_FILES", 3)
    for name in "abcde":
        put(tmp_path, name, an_event("loss", 0.5))
    source = EventFiles(tmp_path, METRICS, FOLDER)
    assert len(read_all(source)) == 3
    assert source.warnings == (f"of the files below {tmp_path} only the first 3 were read",)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"not an event file, but longer than its head",
        lambda data: b"",
        lambda data: data[:11],
        lambda data: data[:-1],
        lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
        lambda data: struct.pack("<Q", 2**63) + data[8:],
    ],
)
def test_what_cannot_be_read_is_left_and_the_others_are_read(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    put(tmp_path, "a", an_event("loss", 0.5), damage(an_event("loss", 9.0)))
    put(tmp_path, "b", damage(an_event("loss", 9.0)))
    put(tmp_path, "c", an_event("loss", 0.25))
    os.mkfifo(tmp_path / "d")
    (tmp_path / "e").symlink_to(tmp_path / "nowhere")
    (tmp_path / "f").symlink_to("/dev/zero")
    assert values(EventFiles(tmp_path, METRICS, FOLDER)) == [("loss", "0.5"), ("loss", "0.25")]


def test_a_record_that_is_no_event_is_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "a", framed(b"\xff\xff\xff"), an_event("loss", 0.5))
    assert values(EventFiles(tmp_path, METRICS, FOLDER)) == [("loss", "0.5")]


def test_a_giant_record_is_passed_over_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("katuna.metrics.tensorboard.LARGEST_BYTES", 1000)
    put(tmp_path, "a", framed(b"x" * 2000), an_event("loss", 0.5))
    assert values(EventFiles(tmp_path, METRICS, FOLDER)) == [("loss", "0.5")]


def test_only_single_numbers_count(tmp_path: Path) -> None:
    tensors: list[object] = [np.array([0.5], np.float32), "high", np.float64(0.25), np.int64(3)]
    put(tmp_path, "a", *(an_event("loss", each, tensor=True) for each in tensors), an_event("loss", float("nan")))
    assert values(EventFiles(tmp_path, METRICS, FOLDER)) == [("loss", "0.25"), ("loss", "3"), ("loss", "nan")]


def test_a_file_of_the_same_name_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = put(tmp_path, "a", an_event("loss", 0.5), an_event("loss", 0.25))
    source = EventFiles(tmp_path, METRICS, FOLDER)
    assert len(source.read()) == 2
    path.write_bytes(an_event("loss", 0.75))
    assert [report.value for report in source.read()] == ["0.75"]
    path.unlink()
    assert (source.read(), source.at_end) == ([], True)


def test_a_file_of_another_writer_is_read(tmp_path: Path) -> None:
    """Written by TensorBoard's own writer, as PyTorch and others use it."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(tmp_path))
    for step in range(3):
        summary = Summary(value=[Summary.Value(tag="loss", simple_value=step / 4)])
        writer.add_event(Event(wall_time=1_700_000_000.0 + step, step=step, summary=summary))
    writer.flush()
    source = EventFiles(tmp_path, METRICS, FOLDER)
    assert [report.value for report in source.read()] == ["0.0", "0.25", "0.5"]
    writer.close()


def test_tags_that_came_near(tmp_path: Path) -> None:
    source = EventFiles(tmp_path, METRICS, FOLDER)
    assert source.nearest == (f"no event file was written below {tmp_path}, which stands for {FOLDER}",)
    put(tmp_path, "a", an_event("train/loss", 0.5), an_event("lr", 0.25))
    assert read_all(source) == []
    assert source.nearest == ("tag train/loss = 0.5", "tag lr = 0.25")
    put(tmp_path, "a", an_event("loss", 0.5))
    assert len(read_all(source)) == 1
    assert source.nearest == ()


@pytest.mark.parametrize("place", [1, 2])
def test_a_damaged_record_is_told_with_its_file_and_place(tmp_path: Path, place: int) -> None:
    records = [an_event("loss", 1.0), an_event("loss", 0.5), an_event("loss", 0.25)]
    whole = b"".join(records)
    at = sum(map(len, records[:place]))
    data = bytearray(whole)
    data[at + 20] ^= 255
    (tmp_path / "events.out.tfevents.1").write_bytes(data)
    source = EventFiles(tmp_path, METRICS, FOLDER)
    assert [report.value for report in read_all(source)] == ["1.0", "0.5"][:place]
    (warning,) = source.warnings
    assert f"{tmp_path}/events.out.tfevents.1 is damaged at byte {at}" in warning


def test_a_whole_file_half_a_record_and_another_file_are_not_damaged(tmp_path: Path) -> None:
    put(tmp_path, "events.out.tfevents.1", an_event("loss", 1.0), an_event("loss", 0.5)[:-3])
    (tmp_path / "model.bin").write_bytes(b"x" * 100)
    source = EventFiles(tmp_path, METRICS, FOLDER)
    read_all(source)
    assert source.warnings == ()
