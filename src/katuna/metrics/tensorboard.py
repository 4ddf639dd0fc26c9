"""TensorBoard event files as Katib's TensorFlowEvent collector reads them (katib.md 4.4), while they grow."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from katuna.metric_line import LAST_S, Report
from katuna.metrics.near import Sieve
from katuna.trees import open_plain

READ_BYTES = 1 << 18
"""At most this much, and one record, is taken in at one `read`, of all files together."""
MOST_FILES = 10_000
"""More than these are none that a training wrote."""
LARGEST_BYTES = 64 << 20
"""A longer record, of images most likely, is passed over."""
CHECKED_BYTES = 4096
"""The checksum of a longer record is not worth its time in Python; of the records' lengths all are checked."""

_HEAD = struct.Struct("<QI")


class EventFiles:
    """A `MetricSource` (metrics/collect.py): the scalars in all event files at and below `folder`, which stands for the container's
    folder `stands_for`. `metrics` names the objective first.

    A metric `dir/name` is every tag that begins with `name` in files whose folder's path ends in `dir`; without a `/`, every tag that
    begins with it. The time is the event's, cut to a second. The text of a value is that of Katib: a `simple_value` is a float32
    written out as a double (0.10000000149011612), a tensor of no dimension as NumPy writes it (0.1). Of what is read at once,
    tensors come first in each file. A file that is none, or is damaged, is left from there on; of a damaged one there is a warning.
    """

    def __init__(self, folder: Path, metrics: Sequence[str], stands_for: str) -> None:
        self._folder = folder
        self._stands_for = PurePosixPath(stands_for)
        self._wanted = [(metric, *metric.rpartition("/")[::2]) for metric in metrics]
        self._files: dict[Path, _EventFile] = {}
        self._sieve = Sieve(metrics)
        self.at_end = False

    def read(self) -> list[Report]:
        reports, left = [], READ_BYTES
        for path in islice(self._paths(), MOST_FILES):
            file = self._files.setdefault(path, _EventFile(path))
            place = str(self._stands_for / path.parent.relative_to(self._folder))
            reports += self._reports(place, file.records(left))
            left -= file.taken
            if left <= 0:
                break
        self.at_end = left > 0
        return reports

    def hurry(self) -> None:
        """Files wait."""

    def finish(self) -> list[Report]:
        """Half a record is none."""
        return []

    def close(self) -> None:
        """No file is kept open."""

    @property
    def nearest(self) -> tuple[str, ...]:
        if any(file.has_events for file in self._files.values()):
            return self._sieve.nearest
        return (f"no event file was written below {self._folder}, which stands for {self._stands_for}",)

    @property
    def warnings(self) -> tuple[str, ...]:
        damaged = [(path, file.damaged_at) for path, file in self._files.items() if file.damaged_at is not None]
        more = f"of the files below {self._folder} only the first {MOST_FILES:,} were read"
        return (
            *(f"{path} is damaged at byte {at}: nothing of it was read from there on" for path, at in damaged),
            *([more] if len(self._files) >= MOST_FILES else []),
        )

    def _paths(self) -> Iterator[Path]:
        for folder, folders, names in os.walk(self._folder):
            folders.sort()
            yield from (Path(folder, name) for name in sorted(names))

    def _reports(self, place: str, records: Iterator[bytes]) -> list[Report]:
        """What one file's records tell, in Katib's order: tensors, then scalars, each tag by tag."""
        found: list[tuple[bool, int, Report]] = []
        tags: dict[str, int] = {}
        for record in records:
            event = _parsed(record)
            for value in event.summary.value:
                is_scalar = value.WhichOneof("value") == "simple_value"
                order = tags.setdefault(value.tag, len(tags))
                found += [(is_scalar, order, report) for report in self._values(value, place, event.wall_time)]
        return [report for _, _, report in sorted(found, key=lambda each: each[:2])]

    def _values(self, value: Any, place: str, wall_time: float) -> list[Report]:
        metrics = [metric for metric, folder, name in self._wanted if value.tag.startswith(name) and place.endswith(folder)]
        text = _text(value) if value.WhichOneof("value") in ("simple_value", "tensor") else ""
        if not metrics:
            if text:
                self._sieve.note(value.tag, f"tag {value.tag} = {text}")
            return []
        time_us = int(wall_time) * 1_000_000 if 0 <= wall_time < LAST_S else None
        kept = self._sieve.sift(Report(metric, text, time_us) for metric in metrics)
        if text and not kept:
            self._sieve.note(value.tag, f"tag {value.tag} = {text}")
        return kept


class _EventFile:
    """One file, read record by record: the record's length and its checksum, then the record and its checksum."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._looked_at = (0, 0, 0, 0)
        self._given_up = False
        self.has_events = False
        self.at_end = True
        self.taken = 0
        """Bytes, at the last look."""

    @property
    def damaged_at(self) -> int | None:
        """The offset of the first record whose checksum is wrong; None for an intact file, and for a file without events."""
        return self._offset if self._given_up and (self.has_events or "tfevents" in self._path.name) else None

    def records(self, budget_bytes: int) -> Iterator[bytes]:
        """The whole records that came since the last call, until they make up `budget_bytes`."""
        self.taken = 0
        try:
            status = self._path.stat()
        except OSError:
            self.at_end = True
            return
        now = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if not stat.S_ISREG(status.st_mode) or (now == self._looked_at and self.at_end):
            return
        if now[:2] != self._looked_at[:2] or status.st_size < self._offset:
            self._offset, self._given_up = 0, False
        self._looked_at, self.at_end = now, True
        if not self._given_up:
            yield from self._whole(status.st_size, self._offset + budget_bytes)

    def _whole(self, size: int, budget_end: int) -> Iterator[bytes]:
        from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

        try:
            file = open_plain(self._path, os.O_RDONLY, follow=True)
        except OSError:
            return
        try:
            while self._offset + _HEAD.size <= size:
                if self._offset >= budget_end:
                    self.at_end = False
                    return
                head = os.pread(file, _HEAD.size, self._offset)
                length, checksum = _HEAD.unpack(head) if len(head) == _HEAD.size else (0, -1)
                if masked_crc32c(head[:8]) != checksum:
                    self._given_up = True
                    return
                end = self._offset + _HEAD.size + length + 4
                if end > size:
                    return
                record = self._checked(file, length, masked_crc32c) if length <= LARGEST_BYTES else b""
                if record is None:
                    self._given_up = True
                    return
                self.taken += end - self._offset
                self._offset, self.has_events = end, True
                yield record
        finally:
            os.close(file)

    def _checked(self, file: int, length: int, checksum_of: Callable[[bytes], int]) -> bytes | None:
        data = os.pread(file, length + 4, self._offset + _HEAD.size)
        record, checksum = data[:length], data[length:]
        if length <= CHECKED_BYTES and checksum != struct.pack("<I", checksum_of(record)):
            return None
        return record


def _parsed(record: bytes) -> Any:
    """An Event; of what is none, an empty one."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.compat.proto.event_pb2 import Event

    try:
        return Event.FromString(record)
    except DecodeError:
        return Event()


def _text(value: Any) -> str:
    """A summary value's text; empty for a tensor that is no single value."""
    if value.WhichOneof("value") == "simple_value":
        return str(value.simple_value)
    if value.tensor.tensor_shape.dim:
        return ""
    from tensorboard.util.tensor_util import make_ndarray

    try:
        return str(make_ndarray(value.tensor))
    except (TypeError, ValueError):
        return ""
