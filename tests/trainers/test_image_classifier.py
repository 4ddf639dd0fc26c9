"""The trainer as a trial runs it, and its parts."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from katuna.metrics.line import read_metrics

SCRIPT = Path(__file__).parents[2] / "trainers" / "image_classifier.py"
METRICS = ["train-loss", "val-loss", "val-accuracy"]
SMALL = ["--width=4", "--epochs=1", "--batch-size=256"]


@pytest.fixture(scope="module")
def trainer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("image_classifier", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def environment(trial: Path | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KATUNA_")}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **({"KATUNA_TRIAL_DIR": str(trial)} if trial else {})}


def run(*flags: str, trial: Path | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *flags],
        env=environment(trial),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


def printed(text: str) -> list[dict[str, float]]:
    """The metrics of each line, as Katib's collector would read them."""
    return [{found.metric: float(found.value) for found in read_metrics(line, METRICS)} for line in text.splitlines()]


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("trial")
    return folder, run("--width=8", "--epochs=3", "--optimizer=sgd", "--lr=0.1", trial=folder, cwd=folder)


def test_a_run_prints_one_line_an_epoch_that_the_collector_reads(trial: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    done = trial[1]
    assert (done.returncode, done.stderr) == (0, "")
    epochs = printed(done.stdout)
    assert [set(epoch) for epoch in epochs] == [set(METRICS)] * 3
    assert epochs[-1]["val-accuracy"] > 0.9
    assert epochs[-1]["train-loss"] < epochs[0]["train-loss"]


def test_a_run_leaves_events_and_weights_in_the_trial_folder_alone(trial: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder = trial[0]
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert "export/model.npz" in names
    assert all(re.fullmatch(r"events/events\.out\.tfevents\.\S+", name) for name in names - {"export/model.npz"})
    assert len(names) == 2


def test_tensorboard_has_what_was_printed_and_the_flags(trial: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = EventAccumulator(str(trial[0] / "events"))
    events.Reload()
    for metric in METRICS:
        written = {scalar.step: scalar.value for scalar in events.Scalars(metric)}
        assert written == pytest.approx({n: epoch[metric] for n, epoch in enumerate(printed(trial[1].stdout), 1)}, abs=1e-6)
    started = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    flags = HParamsPluginData.FromString(started).session_start_info.hparams
    assert flags["lr"].number_value == 0.1
    assert flags["optimizer"].string_value == "sgd"


def test_the_saved_weights_are_those_that_were_judged(
    trainer: ModuleType, trial: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    with np.load(trial[0] / "export" / "model.npz", allow_pickle=False) as arrays:
        state = {name: torch.from_numpy(arrays[name]) for name in arrays}
    config = trainer.Config(width=8)
    training, validation = trainer.split(trainer.load(config))
    network = trainer.network_for(training, config)
    network.load_state_dict(state)
    last = printed(trial[1].stdout)[-1]
    assert trainer.evaluate(network, validation) == pytest.approx({name: last[name] for name in METRICS[1:]}, abs=1e-5)


def test_a_seed_decides_everything_on_a_cpu(trainer: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    def lines(seed: int) -> str:
        trainer.train(trainer.parse([*SMALL, "--device=cpu", "--shift=1", f"--seed={seed}"]), lambda _epoch, _metrics: None)
        return capsys.readouterr().out

    first = lines(1)
    assert first == lines(1)
    assert first != lines(2)


def test_diverging_training_ends_with_a_message_and_no_metric() -> None:
    done = run("--lr=1e9", "--optimizer=sgd", *SMALL)
    assert done.returncode == 1
    assert re.fullmatch(r"error: training diverged in epoch 1: .* lower --lr than .*\n", done.stderr)
    assert printed(done.stdout + done.stderr) in ([], [{}])


def test_sigterm_ends_a_run_cleanly(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with subprocess.Popen(
        [sys.executable, str(SCRIPT), "--epochs=100000", "--width=4"],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait(timeout=60) == 143
        assert process.stderr.read() == ""
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert events.Scalars("val-loss")[0].value == pytest.approx(printed(first)[0]["val-loss"], abs=1e-6)
    assert not (tmp_path / "export").exists()


def test_the_packaged_images_need_no_library_of_their_own() -> None:
    code = f"""
import json, runpy, sys
part = runpy.run_path({str(SCRIPT)!r})
for dataset in ("digits", "mnist5k"):
    part["load"](part["Config"](dataset=dataset))
names = {{name.partition(".")[0] for name in sys.modules}}
print(json.dumps([sorted(names & {{"sklearn", "mlxtend", "torchvision", "tensorboard", "pandas"}}),
                  sorted(name for name in sys.modules if name.startswith("katuna."))]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True, timeout=100
    )
    libraries, ours = json.loads(done.stdout)
    assert libraries == []
    assert ours == ["katuna.metrics", "katuna.metrics.line"]


# Flags


def test_every_flag_is_a_documented_field(trainer: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        trainer.parse(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(trainer.Config):
        assert f"{field.metadata['doc']} (default: {field.default})" in text
    assert trainer.parse([]) == trainer.Config()


def test_flags_have_the_types_of_their_fields(trainer: ModuleType) -> None:
    config = trainer.parse(["--lr=1e-3", "--width", "16", "--optimizer=sgd", "--data-dir=x"])
    assert config == trainer.Config(lr=0.001, width=16, optimizer="sgd", data_dir="x")


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--epoch=3", "unrecognized arguments"),
        ("--optimizer=lbfgs", "--optimizer"),
        ("--width=1.5", "--width"),
        ("--width=0", "--width is 0; it must be at least 1"),
        ("--lr=nan", "--lr is nan"),
        ("--lr=0", "--lr is 0.0; it must be above 0"),
        ("--dropout=1", "--dropout is 1.0; it must be at least 0 and below 1"),
        ("--shift=-1", "--shift is -1; it must be 0 or more"),
        ("--weight-decay=inf", "--weight-decay is inf"),
    ],
)
def test_a_wrong_flag_is_refused(trainer: ModuleType, capsys: pytest.CaptureFixture[str], flag: str, says: str) -> None:
    with pytest.raises(SystemExit) as ended:
        trainer.parse([flag])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_a_device_that_is_not_here_is_refused(trainer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert trainer.device_for("auto") == torch.device("cpu")
    with pytest.raises(SystemExit, match="--device cuda is not usable here; these are: cpu"):
        trainer.device_for("cuda")


# Data


@pytest.mark.parametrize(("dataset", "side", "validation"), [("digits", 8, 359), ("mnist5k", 28, 1000)])
def test_a_fifth_of_each_class_is_held_out(trainer: ModuleType, dataset: str, side: int, validation: int) -> None:
    images = trainer.load(trainer.Config(dataset=dataset))
    assert images.pixels.shape[1:] == (1, side, side)
    assert (images.pixels.min(), images.pixels.max()) == (0, 1)
    training, held = trainer.split(images)
    assert len(held.labels) == validation
    assert len(training.labels) + len(held.labels) == len(images.labels)
    counts = torch.bincount(images.labels, minlength=10)
    assert torch.equal(torch.bincount(training.labels) + torch.bincount(held.labels), counts)
    assert (torch.bincount(held.labels) - counts / 5).abs().max() <= 0.5
    assert torch.equal(trainer.split(images)[1].pixels, held.pixels)


def test_at_most_ten_thousand_images_are_held_out(trainer: ModuleType) -> None:
    labels = torch.arange(60_000) % 10
    training, held = trainer.split(trainer.Images(labels.reshape(-1, 1, 1, 1).float(), labels))
    assert (len(training.labels), len(held.labels)) == (50_000, 10_000)


def test_a_shift_moves_each_image_by_its_own_offset(trainer: ModuleType) -> None:
    torch.manual_seed(0)
    images = torch.zeros(200, 2, 5, 6)
    images[:, 0, 2, 3] = 1
    images[:, 1, 2, 3] = 2
    moved = trainer.shifted(images, 1)
    assert moved.shape == images.shape
    places = (moved[:, 0] == 1).nonzero()[:, 1:]
    assert len(places) == 200
    assert torch.equal((moved[:, 1] == 2).nonzero()[:, 1:], places)
    assert {tuple(place) for place in places.tolist()} == {(row, column) for row in (1, 2, 3) for column in (2, 3, 4)}
    assert torch.equal(trainer.shifted(images, 0), images)


def write_idx(folder: Path, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> None:
    """The files of MNIST as they are when downloaded and unpacked; torchvision wants the test set beside the training set."""
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
            (folder / f"{part}-{kind}-ubyte").write_bytes(header + array.tobytes())


@pytest.mark.parametrize(("dataset", "name"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_downloaded_datasets_are_read_from_their_folder(trainer: ModuleType, tmp_path: Path, dataset: str, name: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    write_idx(tmp_path / name / "raw", images, labels)
    read = trainer.load(trainer.Config(dataset=dataset, data_dir=str(tmp_path)))
    assert torch.equal((read.pixels * 255).round().to(torch.uint8).squeeze(1), torch.from_numpy(images))
    assert read.labels.tolist() == labels.tolist()


def test_colour_images_train_too(
    trainer: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torchvision import datasets

    pixels = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    found = SimpleNamespace(data=pixels, targets=[number % 10 for number in range(60)])
    monkeypatch.setattr(datasets, "CIFAR10", lambda *_args, **_flags: found)
    trainer.train(trainer.parse(["--dataset=cifar10", *SMALL]), lambda _epoch, _metrics: None)
    assert printed(capsys.readouterr().out)[0].keys() == set(METRICS)
    read = trainer.load(trainer.Config(dataset="cifar10"))
    assert read.pixels[7, 2, 30, 1] == pytest.approx(pixels[7, 30, 1, 2] / 255)


def test_a_dataset_that_cannot_be_downloaded_is_said(trainer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    def unreachable(*_args: object, **_flags: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(datasets, "MNIST", unreachable)
    with pytest.raises(
        SystemExit, match=r"mnist is not in 'data' and could not be downloaded \(no network\); digits and mnist5k"
    ):
        trainer.load(trainer.Config(dataset="mnist"))


# What its first page claims


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_defaults_are_good_on_digits() -> None:
    accuracies = [printed(run(f"--seed={seed}").stdout)[-1]["val-accuracy"] for seed in range(3)]
    assert sum(accuracies) / 3 >= 0.993


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_defaults_are_good_on_mnist5k() -> None:
    assert printed(run("--dataset=mnist5k", "--shift=2").stdout)[-1]["val-accuracy"] >= 0.98
