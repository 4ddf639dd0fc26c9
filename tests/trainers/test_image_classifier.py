"""The trainer as trials and PyTorchJobs run it, and its parts."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import ranks
from katuna.metric_line import read_metrics
from katuna.runtime.images import read
from katuna.runtime.world import World
from pictures import COLOURS, pictures
from programs import imported

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "trainers" / "image_classifier.py"
METRICS = ["train-loss", "val-loss", "val-accuracy"]
SMALL = ["--width=4", "--epochs=1", "--batch-size=256"]
CPU = torch.device("cpu")
TOLERANCES = ((1e-5, 1e-4), (1e-4, 1e-3), (5e-3, 0.1))
"""Between the (training, validation) losses of one process and of two with the same batches, for the first epoch, the second and all others:
sums in float32 differ by their order, and training at the highest learning rate makes more of it with each step."""


@pytest.fixture(scope="module")
def trainer() -> ModuleType:
    return imported(SCRIPT)


Main = Callable[..., list[dict[str, float]]]


@pytest.fixture
def main(trainer: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Main:
    """Runs the trainer with flags in this process; what it printed."""
    for name in ("KATUNA_TRIAL_DIR", "KATUNA_DATA", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def run(*flags: str) -> list[dict[str, float]]:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--device=cpu", "--no-export", *flags])
        trainer.main()
        return printed(capsys.readouterr().out)

    return run


def run(*flags: str, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    command, env = [sys.executable, str(SCRIPT), *flags], ranks.environment(**environ)
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=False, timeout=280)


def printed(text: str) -> list[dict[str, float]]:
    """The metrics of each line, as Katib's collector would read them."""
    return [{found.metric: float(found.value) for found in read_metrics(line, METRICS)} for line in text.splitlines()]


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("trial")
    flags = ("--width=8", "--epochs=3", "--optimizer=sgd", "--lr=0.1")
    return folder, run(*flags, cwd=folder, KATUNA_TRIAL_DIR=str(folder))


def test_a_run_prints_one_line_an_epoch_that_the_collector_reads(trial: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    done = trial[1]
    assert (done.returncode, done.stderr) == (0, "")
    epochs = printed(done.stdout)
    assert [set(epoch) for epoch in epochs] == [set(METRICS)] * 3
    assert epochs[-1]["val-accuracy"] > 0.9
    assert epochs[-1]["train-loss"] < epochs[0]["train-loss"]


def test_a_run_leaves_its_files_in_the_trial_folder_alone(trial: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder = trial[0]
    assert {path.name for path in folder.iterdir()} == {"events", "checkpoints", "export"}
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == ["step-000046", "step-000069"]
    assert len(list((folder / "events").iterdir())) == 1


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


def test_the_export_is_the_model_that_was_judged(
    trainer: ModuleType, trial: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    import onnxruntime
    from safetensors.torch import load_file

    export = trial[0] / "export"
    shape = json.loads((export / "arguments.json").read_text())["model_arguments"]
    network = trainer.network(**shape)
    network.load_state_dict(load_file(export / "model.safetensors"))
    images = read("digits", CPU)
    pixels, labels = images.at(trainer.split(images)[1])
    (scores,) = onnxruntime.InferenceSession(export / "model.onnx").run(None, {"pixels": pixels.numpy()})
    with torch.no_grad():
        assert network.eval()(pixels).numpy() == pytest.approx(scores, abs=1e-3)
    last = printed(trial[1].stdout)[-1]
    assert (scores.argmax(1) == labels.numpy()).mean() == pytest.approx(last["val-accuracy"], abs=1e-6)
    schema = json.loads((export / "schema.json").read_text())
    assert schema["labels"] == list("0123456789")


# Limits, signals, resumes


def test_a_seed_decides_everything_on_a_cpu(main: Main) -> None:
    flags = [*SMALL, "--shift=1"]
    first = main(*flags, "--seed=1")
    assert first == main(*flags, "--seed=1")
    assert first != main(*flags, "--seed=2")


def test_a_resumed_training_ends_as_an_uninterrupted_one(main: Main, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    flags = ["--width=4", "--epochs=3", "--batch-size=128", "--shift=1", "--accumulate=2", "--clip=1", "--keep-checkpoints=1"]
    whole = main(*flags, f"--trial-dir={tmp_path / 'whole'}")
    for most in (5, 12, 30, 0):  # 12 steps an epoch; 0 is no limit
        part = main(*flags, f"--trial-dir={tmp_path / 'parts'}", f"--max-steps={most}")
    assert part[-1] == whole[-1]
    assert main(*flags, f"--trial-dir={tmp_path / 'parts'}") == whole[-1:]
    (one,), (other,) = ([*(tmp_path / name / "checkpoints").glob("*/tensors.safetensors")] for name in ("whole", "parts"))
    assert one.parent.name == "step-000036"
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_max_steps_ends_with_the_metrics_of_what_was_trained(main: Main) -> None:
    (line,) = main("--width=4", "--epochs=5", "--max-steps=3")
    assert set(line) == set(METRICS)
    assert line["train-loss"] > 1


def test_sigterm_saves_and_exits_143_and_the_next_run_goes_on(main: Main, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--epochs=100000", "--width=4", "--batch-size=1000", "--device=cpu"]
    env = ranks.environment(KATUNA_TRIAL_DIR=str(tmp_path))
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert printed(process.stdout.readline())[0].keys() == set(METRICS)
        process.send_signal(signal.SIGTERM)
        code, _, err = ranks.ended(process)
    assert (code, err) == (143, "")
    assert not (tmp_path / "export").exists()
    saved = max(int(path.name.removeprefix("step-")) for path in (tmp_path / "checkpoints").iterdir())
    assert saved >= 2
    main(*command[2:], f"--trial-dir={tmp_path}", f"--max-steps={saved + 1}")
    assert (tmp_path / "checkpoints" / f"step-{saved + 1:06}").is_dir()


def test_sigterm_in_an_evaluation_leaves_the_epoch_for_the_next_run_to_judge(
    main: Main, trainer: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = ["--width=4", "--epochs=3", "--batch-size=256"]
    whole, evaluate, calls = main(*flags), trainer.evaluate, []

    def interrupted(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*given)

    monkeypatch.setattr(trainer, "evaluate", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(*flags, f"--trial-dir={tmp_path}")
    monkeypatch.setattr(trainer, "evaluate", evaluate)
    assert ended.value.code == 143
    assert printed(capsys.readouterr().out) == whole[:1]
    assert main(*flags, f"--trial-dir={tmp_path}") == whole[1:]
    assert main(*flags, f"--trial-dir={tmp_path}") == whole[2:], "and one that had ended says how"


@pytest.mark.slow
def test_two_ranks_leave_an_evaluation_and_resume_to_the_same_lines(tmp_path: Path) -> None:
    """Rank 1 alone is told; what is printed is that of an uninterrupted run."""
    flags = ["--device=cpu", "--no-export", "--width=4", "--epochs=2", "--batch-size=256"]
    code = f"""
import os, pathlib, signal, sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from programs import imported
trainer = imported(pathlib.Path({str(SCRIPT)!r}))
sys.argv = ["x", *{flags!r}, {f"--trial-dir={tmp_path}"!r}]
evaluate = trainer.evaluate
def interrupted(*given):
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
    return evaluate(*given)
trainer.evaluate = interrupted
trainer.main()
"""
    whole = ranks.run([SCRIPT, *flags], 2)
    done = ranks.run(["-c", code], 2)
    assert [(code, err) for code, _, err in done] == [(143, ""), (143, "")]
    again = ranks.run([SCRIPT, *flags, f"--trial-dir={tmp_path}"], 2)
    assert [(code, err) for code, _, err in again] == [(0, ""), (0, "")]
    assert printed(done[0][1] + again[0][1]) == printed(whole[0][1])


def test_a_resume_with_other_flags_is_refused(main: Main, tmp_path: Path) -> None:
    main(*SMALL, f"--trial-dir={tmp_path}")
    with pytest.raises(SystemExit) as ended:
        main(*SMALL, "--epochs=2", "--lr=0.1", f"--trial-dir={tmp_path}")
    assert str(ended.value).endswith(
        "step-000006 is of another training: --epochs 1 in it and 2 here; --lr 0.01 in it and 0.1 here; "
        "take the same flags and data, or another --trial-dir"
    )
    main(*SMALL, "--checkpoint-every=2", "--max-steps=99", f"--trial-dir={tmp_path}")


def test_a_resume_with_other_data_is_refused(main: Main, tmp_path: Path) -> None:
    for name in ("one", "other"):
        pictures(tmp_path / name, COLOURS, 10)
    flags = ["--dataset=folder", "--size=16", *SMALL]
    main(*flags, f"--data={tmp_path / 'one'}", f"--trial-dir={tmp_path / 'trial'}")
    main(*flags, f"--data={tmp_path / 'other'}", f"--trial-dir={tmp_path / 'trial'}")  # the same, elsewhere
    (tmp_path / "other" / "red" / "9.png").unlink()
    with pytest.raises(SystemExit) as ended:
        main(*flags, f"--data={tmp_path / 'other'}", f"--trial-dir={tmp_path / 'trial'}")
    assert re.fullmatch(
        r"error: .*: the SHA-256 of its data is \w{12}\.\.\., and that of the data here \w{12}\.\.\.; take the same flags and .*",
        str(ended.value),
    )


def test_a_resume_with_loading_processes_is_the_same_training(main: Main, tmp_path: Path) -> None:
    pictures(tmp_path / "data", COLOURS, 10)
    flags = ["--dataset=folder", f"--data={tmp_path / 'data'}", "--size=16", "--width=4", "--epochs=2", "--batch-size=4"]
    flags += ["--shift=1", "--workers=1"]
    whole = main(*flags)
    assert main(*flags, f"--trial-dir={tmp_path / 'trial'}", "--max-steps=3")
    assert main(*flags, f"--trial-dir={tmp_path / 'trial'}") == whole


def test_a_time_limit_leaves_time_for_one_step(main: Main, tmp_path: Path) -> None:
    (line,) = main(*SMALL, "--time-limit=1e-9", f"--trial-dir={tmp_path}")
    assert set(line) == set(METRICS)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]


def test_a_training_that_diverged_leaves_the_checkpoints_that_were_good(main: Main, tmp_path: Path) -> None:
    flags = [
        "--lr=1e9",
        "--optimizer=sgd",
        "--epochs=9",
        "--checkpoint-every=1",
        "--keep-checkpoints=9",
        f"--trial-dir={tmp_path}",
    ]
    with pytest.raises(SystemExit, match=r"^error: the loss is (nan|inf) at step \d+: the training diverged"):
        main(*flags)
    saved = [json.loads(path.read_text())["values"]["loss"] for path in (tmp_path / "checkpoints").glob("*/state.json")]
    assert saved
    assert all(type(loss) is float for loss in saved)


@pytest.mark.parametrize("flags", [["--trial-dir=afile/x"], ["--trial-dir=/proc/x"]])
def test_a_trial_folder_that_cannot_be_made_is_said(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("afile").touch()
    with pytest.raises(SystemExit, match=r"^error: /.*/x/events cannot be written: [^\n]*$"):
        main(*SMALL, *flags)


def test_diverging_training_ends_with_one_line_and_no_metric(main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main("--lr=1e9", "--optimizer=sgd", *SMALL)
    assert re.fullmatch(r"error: the loss is (nan|inf) at step 6: the training diverged; try a lower .*", str(ended.value))
    assert capsys.readouterr().out == ""


# Ranks


def flags_of(file: str) -> list[str]:
    """What the file's job gives to the trainer, in each of its replicas."""
    job = yaml.safe_load((ROOT / "training_jobs" / file).read_text())
    replicas = job["spec"]["pytorchReplicaSpecs"].values()
    commands = [replica["template"]["spec"]["containers"][0]["command"] for replica in replicas]
    assert commands[0][:2] == ["python", "trainers/image_classifier.py"]
    assert [len(replicas), *(command == commands[0] for command in commands)] == [2, True, True]
    return list(commands[0][2:])


def compare(done: list[tuple[int, str, str]], alone: list[dict[str, float]]) -> None:
    """The curve of two ranks with that of one process."""
    assert [(code, err) for code, _, err in done] == [(0, ""), (0, "")]
    assert done[1][1] == ""
    shared = printed(done[0][1])
    assert len(shared) == len(alone)
    for epoch, (one, other) in enumerate(zip(shared, alone, strict=True)):
        training, validation = TOLERANCES[min(epoch, 2)]
        assert one["train-loss"] == pytest.approx(other["train-loss"], rel=training)
        assert one["val-loss"] == pytest.approx(other["val-loss"], rel=validation)
        assert one["val-accuracy"] == pytest.approx(other["val-accuracy"], abs=4.5 / 359)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """They cut a batch as two ranks do: with any other number of them sums come in another order, and TOLERANCES do not hold."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("two_threads")
def test_two_ranks_train_as_one_process_with_the_whole_batch(main: Main, tmp_path: Path) -> None:
    flags = [*flags_of("digits-ddp.yaml"), "--epochs=2"]
    done = ranks.run([SCRIPT, *flags], 2, KATUNA_TRIAL_DIR=str(tmp_path))
    compare(done, main(*flags))
    assert (tmp_path / "export" / "model.onnx").is_file()
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["step-000023", "step-000046"]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_the_file_trains_to_the_same_curve(main: Main, strategy: str) -> None:
    flags = [*flags_of("digits-ddp.yaml"), f"--strategy={strategy}"]
    done = ranks.run([SCRIPT, *flags], 2)
    compare(done, main(*flags))


def test_a_killed_peer_ends_the_other_with_one_line(tmp_path: Path) -> None:
    with ExitStack() as stack:
        flags = ["--epochs=100000", "--width=4", "--device=cpu", "--no-export", f"--trial-dir={tmp_path}"]
        first, second = ranks.start(stack, [SCRIPT, *flags], 2)
        assert first.stdout is not None
        first.stdout.readline()
        second.kill()
        code, _, err = ranks.ended(first)
    assert code == 1
    assert re.fullmatch(r"error: rank 0 of 2 lost a peer: .*\n", err)


# Start, flags


def test_the_packaged_images_need_no_library_of_their_own() -> None:
    code = f"""
import json, runpy, sys
import torch
part = runpy.run_path({str(SCRIPT)!r})
for dataset in ("digits", "mnist5k"):
    part["read"](dataset, torch.device("cpu"))
part["network"](model="cnn", channels=1, side=8, classes=10, width=4, norm="batch", dropout=0.0)
names = {{name.partition(".")[0] for name in sys.modules}}
print(json.dumps(sorted(names & {{"sklearn", "mlxtend", "torchvision", "tensorboard", "pandas", "onnx", "onnxruntime", "onnxscript"}})))
print(json.dumps("torch._dynamo" in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=ranks.environment(), capture_output=True, text=True, check=True, timeout=100
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[], False]


def test_every_flag_is_a_documented_field(trainer: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        trainer.parse(trainer.Config, ["--help"], doc=trainer.__doc__)
    text = " ".join(capsys.readouterr().out.split())
    assert "Train a network to classify images" in text
    for field in dataclasses.fields(trainer.Config):
        assert field.metadata["doc"] + (f" (default: {field.default})" if field.default != "" else "") in text
    assert trainer.parse(trainer.Config, []) == trainer.Config()


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--epoch=3", "unrecognized arguments"),
        ("--optimizer=lbfgs", "--optimizer"),
        ("--width=1.5", "--width"),
        ("--width=0", "--width is 0; it must be at least 1"),
        ("--size=1", "--size is 1; it must be at least 2"),
        ("--lr=nan", "--lr is nan"),
        ("--lr=0", "--lr is 0.0; it must be above 0"),
        ("--dropout=1", "--dropout is 1.0; it must be at least 0 and below 1"),
        ("--shift=-1", "--shift is -1; it must be at least 0"),
        ("--weight-decay=inf", "--weight-decay is inf"),
        ("--data=x", "digits lies in a package"),
    ],
)
def test_a_wrong_flag_is_refused(trainer: ModuleType, capsys: pytest.CaptureFixture[str], flag: str, says: str) -> None:
    with pytest.raises(SystemExit) as ended:
        trainer.parse(trainer.Config, [flag])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


# Models


@pytest.mark.parametrize(
    ("flags", "step"),
    [
        (["--model=resnet18", "--norm=group"], 1),
        (["--model=vit", "--augment=crop-flip"], 1),
        (["--precision=bf16", "--channels-last", "--augment=trivial"], 2),
        (["--augment=rand", "--accumulate=3"], 2),
    ],
)
def test_every_model_and_augmentation_trains(main: Main, monkeypatch: pytest.MonkeyPatch, flags: list[str], step: int) -> None:
    (line,) = main("--batch-size=32", "--width=4", f"--max-steps={step}", *flags)
    assert set(line) == set(METRICS)


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (28, 1), (32, 3), (64, 3), (100, 3)])
@pytest.mark.parametrize("model", ["cnn", "resnet50", "vit"])
def test_models_fit_the_images(trainer: ModuleType, model: str, side: int, channels: int) -> None:
    with torch.device("meta"):
        network = trainer.network(model=model, channels=channels, side=side, classes=7, width=4, norm="group", dropout=0.0)
        assert network.eval()(torch.zeros(2, channels, side, side)).shape == (2, 7)


def test_a_batch_of_one_value_a_channel_trains(main: Main, trainer: ModuleType, tmp_path: Path) -> None:
    pictures(tmp_path, COLOURS, 4)
    (line,) = main("--dataset=folder", f"--data={tmp_path}", "--size=2", "--width=4", "--epochs=1", "--batch-size=5")
    assert set(line) == set(METRICS)
    norm = trainer.BatchNorm(3)
    norm(torch.randn(50, 3, 2, 2) + 5)
    before, given = norm.running_mean.clone(), torch.randn(1, 3, 1, 1)
    assert torch.equal(norm(given), norm.eval()(given))
    assert torch.equal(norm.running_mean, before)


# Data


def test_colour_images_train_too(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    pixels = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    found = SimpleNamespace(data=pixels, targets=[number % 10 for number in range(60)], classes=list("abcdefghij"))
    monkeypatch.setattr(datasets, "CIFAR10", lambda *_args, **_flags: found)
    (line,) = main("--dataset=cifar10", *SMALL)
    assert set(line) == set(METRICS)
    images = read("cifar10", CPU)
    assert images.pixels(torch.tensor([7]))[0, 2, 30, 1] == pytest.approx(pixels[7, 30, 1, 2] / 255)


@pytest.mark.parametrize("workers", [0, 1])
def test_any_folder_of_pictures_trains(main: Main, tmp_path: Path, workers: int) -> None:
    folder = pictures(tmp_path / "pictures", COLOURS, 10)
    lines = main(
        "--dataset=folder", f"--data={folder}", "--size=16", "--epochs=4", "--batch-size=4", "--width=4", f"--workers={workers}"
    )
    assert lines[-1]["val-accuracy"] == 1
    images = read("folder", CPU, data=str(folder), size=16)
    assert images.names == ("blue", "red")
    assert images.pixels(torch.tensor([0, 19]))[:, :, 3, 3].tolist() == [[0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_is_cut_short_is_named(main: Main, tmp_path: Path, workers: int) -> None:
    pictures(tmp_path, COLOURS, 4)
    for name in ("blue", "red"):
        for number in range(4):
            place = tmp_path / name / f"{number}.png"
            place.write_bytes(place.read_bytes()[:60])
    with pytest.raises(SystemExit, match=r"^error: .*\.png is broken: [^\n]*$"):
        main("--dataset=folder", f"--data={tmp_path}", "--size=16", f"--workers={workers}")


def test_pixels_are_standardised_by_what_was_measured(trainer: ModuleType) -> None:
    standard = trainer.Standard(2)
    pixels = torch.rand(50, 2, 4, 4) * torch.tensor([0.1, 1.0]).reshape(1, 2, 1, 1)
    standard.measure(pixels)
    deviation, mean = torch.std_mean(standard(pixels), (0, 2, 3))
    assert mean.tolist() == pytest.approx([0, 0], abs=1e-5)
    assert deviation.tolist() == pytest.approx([1, 1], abs=1e-5)
    standard.measure(torch.zeros(3, 2, 4, 4))
    assert math.isfinite(standard(torch.ones(1, 2, 4, 4)).sum())


def test_evaluation_does_not_depend_on_how_it_is_cut(trainer: ModuleType) -> None:
    torch.manual_seed(0)
    images = read("mnist5k", CPU)
    network = trainer.network(model="cnn", channels=1, side=28, classes=10, width=2, norm="group", dropout=0.0)
    alone = World(0, 0, 1, CPU, "")
    speed = trainer.precision(trainer.Config(), alone)
    held = torch.arange(1003)
    feed = trainer.partial(trainer.fed, world=alone, ahead=0)
    found = trainer.evaluate(network, feed, images, held, speed, alone, trainer.Stop(trainer.Config(), alone))
    with torch.no_grad():
        scores = network(images.pixels(held))
    assert found["val-loss"] == pytest.approx(torch.nn.functional.cross_entropy(scores, images.labels[held]).item(), rel=1e-5)
    assert found["val-accuracy"] == pytest.approx((scores.argmax(1) == images.labels[held]).float().mean().item())


# What its first page claims


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_defaults_are_good_on_digits() -> None:
    accuracies = [printed(run(f"--seed={seed}").stdout)[-1]["val-accuracy"] for seed in range(3)]
    assert sum(accuracies) / 3 >= 0.993


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_good_setting_for_mnist5k() -> None:
    assert printed(run("--dataset=mnist5k", "--shift=2", "--epochs=12").stdout)[-1]["val-accuracy"] >= 0.98
