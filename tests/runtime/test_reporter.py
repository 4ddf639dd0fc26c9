"""Metric lines, TensorBoard and the profiler's trace, of rank 0 alone."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from katuna.runtime.arguments import Common, flag
from katuna.runtime.reporter import Reporter
from katuna.runtime.world import World

ALONE = World(0, 0, 1, torch.device("cpu"), "")
SECOND = World(1, 0, 2, torch.device("cpu"), "")


@dataclass(frozen=True)
class Config(Common):
    lr: float = flag(0.25, "rate")


def test_a_line_is_what_katib_reads(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(Config(), ALONE, ["val-loss"]) as report:
        report({"epoch": 1, "val-loss": 1 / 3, "lr": 1e-9, "norm": float("inf")})
        report.stepped()
    assert capsys.readouterr().out == "epoch=1 val-loss=0.3333333 lr=1e-09\n"


def test_whole_numbers_keep_their_digits_and_nothing_finite_is_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(Config(), ALONE, ["loss"]) as report:
        report({"seen": 123_456_789, "rows": np.int64(123_456_789), "loss": np.float32(0.1)})
        report({"norm": float("nan")})
    assert capsys.readouterr().out == "seen=123456789 rows=123456789 loss=0.1\n"


def test_other_ranks_say_nothing_and_write_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with Reporter(Config(trial_dir=str(tmp_path), profile=True), SECOND, ["loss"]) as report:
        report({"loss": 1.0})
        report.stepped()
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_has_scalars_and_hyperparameters(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    with Reporter(Config(trial_dir=str(tmp_path)), ALONE, ["loss"]) as report:
        report({"epoch": 3, "loss": 0.5})
        report({"loss": 0.25}, step=70)
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert [(scalar.step, scalar.value) for scalar in events.Scalars("loss")] == [(3, 0.5), (70, 0.25)]
    started = HParamsPluginData.FromString(events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content)
    assert started.session_start_info.hparams["lr"].number_value == 0.25
    assert "trial_dir" not in started.session_start_info.hparams
    ended = HParamsPluginData.FromString(events.SummaryMetadata("_hparams_/session_end_info").plugin_data.content)
    assert ended.session_end_info.status == 1


def test_a_profile_of_a_few_steps_is_left(tmp_path: Path) -> None:
    with Reporter(Config(trial_dir=str(tmp_path), profile=True), ALONE, ["loss"]) as report:
        for _ in range(8):
            torch.ones(20, 20) @ torch.ones(20, 20)
            report.stepped()
    (trace,) = (tmp_path / "events").glob("*.pt.trace.json")
    names = [event.get("name") for event in json.loads(trace.read_text())["traceEvents"]]
    assert names.count("aten::mm") == 3


def test_a_profile_needs_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KATUNA_TRIAL_DIR", raising=False)
    with pytest.raises(SystemExit, match="--profile needs a folder"):
        Reporter(Config(profile=True), ALONE, ["loss"])


@pytest.mark.parametrize("name", ["val loss", "verlust=", "größe", ""])
def test_a_name_that_katib_cannot_read_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="Katib's default filter"):
        Reporter(Config(), ALONE, [name])
    with Reporter(Config(), ALONE, ["loss"]) as report, pytest.raises(ValueError, match="Katib's default filter"):
        report({"loss": 1.0, name: 2.0})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_ends_the_training(value: float, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended, Reporter(Config(trial_dir=str(tmp_path)), ALONE, ["loss", "loss-2"]) as report:
        report({"loss": 1.0, "loss-2": value}, step=12)
    assert ended.value.code == f"error: loss-2 is {value} at step 12: the training diverged; try a lower learning rate"
    with pytest.raises(SystemExit) as ended, Reporter(Config(), SECOND, ["loss"]) as report:
        report({"epoch": 2, "loss": value})
    assert ended.value.code == 1
    assert capsys.readouterr().out == ""


def test_a_folder_that_cannot_be_made_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "afile").touch()
    with (
        pytest.raises(
            SystemExit, match=r"^error: .*/afile/x/events cannot be written: Not a directory; give another --trial-dir"
        ),
        Reporter(Config(trial_dir=str(tmp_path / "afile" / "x")), ALONE, ["loss"]),
    ):
        pass


def test_a_disk_that_is_full_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
    with pytest.raises(SystemExit, match=r"events cannot be written: No space left on device; "):
        Reporter(Config(trial_dir=str(tmp_path)), ALONE, ["loss"]).__enter__()
    assert capfd.readouterr().err == ""
