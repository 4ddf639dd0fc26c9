"""The numpy trainer as a trial runs it: what it learns, where its metrics go, and how it goes on and ends."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from urllib.request import urlopen

import numpy as np
import pytest

from katuna.metric_line import read_metrics
from programs import imported

SCRIPT = Path(__file__).parents[2] / "trainers" / "perceptron.py"
METRICS = ["train-loss", "val-loss", "val-accuracy"]


@pytest.fixture(scope="module")
def trainer() -> ModuleType:
    return imported(SCRIPT)


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KATUNA_", "KATIB_"))}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def run(*flags: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *flags],
        env=environment(),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def printed(text: str) -> list[dict[str, float]]:
    """The metrics of each line, as Katib's collector would read them."""
    return [{found.metric: float(found.value) for found in read_metrics(line, METRICS)} for line in text.splitlines()]


@pytest.fixture(scope="module")
def plain() -> list[dict[str, float]]:
    """What four epochs come to."""
    done = run("--epochs=4")
    assert (done.returncode, done.stderr) == (0, "")
    return printed(done.stdout)


# Learning


def test_it_learns_and_says_so_once_an_epoch(plain: list[dict[str, float]]) -> None:
    assert [set(epoch) for epoch in plain] == [set(METRICS)] * 4
    assert plain[-1]["val-accuracy"] > 0.9
    assert plain[-1]["train-loss"] < plain[0]["train-loss"]


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_the_gradient_is_that_of_the_loss(trainer: ModuleType, layers: int, activation: str) -> None:
    """Against the slope between two near points, in double precision, where rounding does not hide an error."""
    config = trainer.Config(layers=layers, hidden=6, activation=activation)
    images = trainer.load().pick(np.arange(40))
    network = [array.astype(np.float64) for array in trainer.network_for(images, config)]
    inputs, logs = trainer.forward(network, images.pixels.astype(np.float64), activation)
    gradient = trainer.backward(network, inputs, logs, images.labels, activation)
    assert [part.shape for part in gradient] == [array.shape for array in network]
    rng = np.random.default_rng(1)
    for n, part in enumerate(gradient):
        direction = rng.normal(size=part.shape)
        above, below = (
            trainer.evaluate([*network[:n], network[n] + step * direction, *network[n + 1 :]], images, activation)[0]
            for step in (1e-6, -1e-6)
        )
        assert (above - below) / 2e-6 == pytest.approx((part * direction).sum(), rel=1e-4, abs=1e-7)


def test_a_fifth_of_each_class_is_held_out(trainer: ModuleType) -> None:
    images = trainer.load()
    assert images.pixels.shape == (1797, 64)
    assert (images.pixels.min(), images.pixels.max()) == (0, 1)
    training, held = trainer.split(images)
    counts = np.bincount(images.labels)
    assert np.array_equal(np.bincount(training.labels) + np.bincount(held.labels), counts)
    assert np.abs(np.bincount(held.labels) - counts / 5).max() <= 0.5


def test_a_seed_decides_everything(trainer: ModuleType) -> None:
    def numbers(seed: int) -> list[dict[str, float]]:
        seen: list[dict[str, float]] = []
        trainer.train(trainer.Config(epochs=2, seed=seed), lambda _epoch, metrics: seen.append(dict(metrics)))
        return seen

    first = numbers(1)
    assert first == numbers(1)
    assert first != numbers(2)


def test_weight_decay_keeps_weights_small_and_momentum_changes_the_way(trainer: ModuleType) -> None:
    def size(**changes: float) -> float:
        network = trainer.train(trainer.Config(epochs=2, **changes), lambda _epoch, _metrics: None)
        return float(sum((array**2).sum() for array in network))

    assert size(weight_decay=0.1) < size(weight_decay=0.0)
    assert size(momentum=0.0) != size(momentum=0.9)


def test_diverging_training_ends_with_a_message_and_no_metric() -> None:
    done = run("--lr=1e30")
    assert done.returncode == 1
    assert re.fullmatch(r"error: training diverged in epoch 1: .* lower --lr than 1e\+30\n", done.stderr)
    assert done.stdout == ""


def test_it_starts_without_any_library_but_numpy() -> None:
    code = f"""
import json, runpy, sys
part = runpy.run_path({str(SCRIPT)!r})
part["load"]()
names = {{name.partition(".")[0] for name in sys.modules}}
print(json.dumps([sorted(names & {{"sklearn", "torch", "tensorboard", "pandas", "scipy", "kubeflow", "google"}}),
                  sorted(name for name in sys.modules if name.startswith("katuna."))]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True, timeout=100
    )
    libraries, ours = json.loads(done.stdout)
    # Setuptools' .pth files may name google's namespace at Python's start; nothing of it is loaded then.
    assert set(libraries) <= {"google"}
    assert ours == ["katuna.metric_line"]


# Going on, and ending


def test_a_checkpoint_makes_two_trainings_one(tmp_path: Path, plain: list[dict[str, float]]) -> None:
    halves = [run("--epochs=2", "--checkpoint-dir=kept", cwd=tmp_path) for _ in range(2)]
    assert [done.returncode for done in halves] == [0, 0]
    assert [line for done in halves for line in printed(done.stdout)] == plain
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["checkpoint.npz"]
    assert halves[1].stdout.startswith("epoch=3 ")


@pytest.mark.parametrize("damage", ["another network", "half of it", "another byte", "no checkpoint at all"])
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path, damage: str) -> None:
    assert run("--epochs=1", "--hidden=8", "--checkpoint-dir=.", cwd=tmp_path).returncode == 0
    file = tmp_path / "checkpoint.npz"
    if damage == "half of it":
        file.write_bytes(file.read_bytes()[:1000])
    elif damage == "another byte":  # the first entry's compression method
        file.write_bytes(file.read_bytes().replace(b"PK\x01\x02\x2d\x03\x2d\0\0\0\0", b"PK\x01\x02\x2d\x03\x2d\0\0\0c", 1))
    elif damage == "no checkpoint at all":
        file.write_text("hello")
    done = run("--epochs=1", f"--hidden={16 if damage == 'another network' else 8}", "--checkpoint-dir=.", cwd=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(r"error: checkpoint\.npz is .*\n", done.stderr), done.stderr
    assert done.stdout == ""


def test_sigterm_ends_a_run_with_its_checkpoint(tmp_path: Path, trainer: ModuleType) -> None:
    with subprocess.Popen(
        [sys.executable, str(SCRIPT), "--epochs=1000000", "--checkpoint-dir=kept"],
        env=environment(),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        lines += process.stdout.read()
        assert process.wait(timeout=60) == 143
        assert process.stderr.read() == ""
    with np.load(tmp_path / "kept" / "checkpoint.npz", allow_pickle=False) as arrays:
        assert arrays["epoch"] == lines.count("\n")
        network = [arrays[f"network{n}"] for n in range(4)]
    _, validation = trainer.split(trainer.load())
    loss, accuracy = trainer.evaluate(network, validation, "relu")
    last = printed(lines)[-1]
    assert (loss, accuracy) == pytest.approx((last["val-loss"], last["val-accuracy"]), abs=1e-5)


# Where the metrics go


def test_text_into_a_file(tmp_path: Path, plain: list[dict[str, float]]) -> None:
    file = tmp_path / "deep" / "metrics.log"
    before = time.time()
    done = run("--epochs=4", f"--metrics-file={file}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert printed(file.read_text()) == plain
    times = [found.time_us for line in file.read_text().splitlines() for found in read_metrics(line, METRICS)]
    assert all(each is not None and before <= each / 1e6 <= time.time() for each in times)


def test_json_into_a_file(tmp_path: Path, plain: list[dict[str, float]]) -> None:
    done = run("--epochs=4", "--metrics-file=metrics.json", "--metrics-format=json", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    objects = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert all(isinstance(value, str) for each in objects for value in each.values())
    assert [{name: float(each[name]) for name in METRICS} for each in objects] == plain


def test_tensorboard_events(tmp_path: Path, plain: list[dict[str, float]]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = run("--epochs=4", "--tensorboard=events", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    for metric in METRICS:
        written = {scalar.step: scalar.value for scalar in events.Scalars(metric)}
        assert written == pytest.approx({n: epoch[metric] for n, epoch in enumerate(plain, 1)}, abs=1e-6)


def test_a_page_for_prometheus(plain: list[dict[str, float]]) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    values: dict[str, float] = {}
    with subprocess.Popen(
        [sys.executable, str(SCRIPT), "--epochs=4", f"--prometheus={port}"],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        while process.poll() is None:
            with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
                families = text_string_to_metric_families(page.read().decode())
                values |= {sample.name: sample.value for family in families for sample in family.samples}
            time.sleep(0.1)
        assert process.stdout is not None
        assert process.stdout.read() == ""
    assert process.returncode == 0
    assert values == {"epoch": 4, **{name.replace("-", "_"): value for name, value in plain[-1].items()}}


def test_a_port_that_is_taken_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("--epochs=1", f"--prometheus={port}")
    assert (done.returncode, done.stderr) == (1, f"error: --prometheus {port}: Address already in use\n")


def test_push_calls_the_sdk(tmp_path: Path, plain: list[dict[str, float]]) -> None:
    """The SDK itself wants a cluster: another module of its name stands in, as a trial's path has one."""
    package = tmp_path / "kubeflow" / "katib"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").write_text("def report_metrics(metrics, **_):\n    print('pushed', sorted(metrics.items()))\n")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--epochs=4", "--push"],
        env={**environment(), "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"pushed {sorted({'epoch': n, **epoch}.items())}" for n, epoch in enumerate(plain, 1)]


def test_push_outside_of_a_trial_is_an_error() -> None:
    pytest.importorskip("kubeflow.katib", reason="the Katib SDK is not installed here")
    done = run("--epochs=1", "--push")
    assert done.returncode == 1
    assert re.fullmatch(r"error: --push: .*\n", done.stderr)


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("--epochs=1", "--metrics-file=file/metrics.log", cwd=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*'file.*'\n", done.stderr)


# Flags


def test_every_flag_is_a_documented_field(trainer: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        trainer.parse(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(trainer.Config):
        assert f"{field.metadata['doc']} (default: {field.default})" in text
    assert trainer.parse([]) == trainer.Config()


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--epoch=3", "unrecognized arguments"),
        ("--activation=gelu", "--activation"),
        ("--hidden=1.5", "--hidden"),
        ("--epochs=0", "--epochs is 0; it must be at least 1"),
        ("--lr=nan", "--lr is nan"),
        ("--lr=0", "--lr is 0.0; it must be above 0"),
        ("--momentum=1", "--momentum is 1.0; it must be at least 0 and below 1"),
        ("--layers=-1", "--layers is -1; it must be 0 or more"),
        ("--weight-decay=inf", "--weight-decay is inf"),
        ("--prometheus=70000", "--prometheus is 70000"),
    ],
)
def test_a_wrong_flag_is_refused(trainer: ModuleType, capsys: pytest.CaptureFixture[str], flag: str, says: str) -> None:
    with pytest.raises(SystemExit) as ended:
        trainer.parse([flag])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
