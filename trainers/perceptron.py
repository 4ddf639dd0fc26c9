"""Train a multilayer perceptron on scikit-learn's digits, in numpy alone; the gradients are written out.

    python trainers/perceptron.py
    python trainers/perceptron.py --layers 2 --hidden 32 --momentum 0.95
    python trainers/perceptron.py --help

It is over in about a second, most of which is numpy's start: a trial for trying out searches. Prints one line an epoch that Katib's
StdOut metrics collector reads by its default filter:

    epoch=12 train-loss=0.025027 val-loss=0.072598 val-accuracy=0.983287

or takes the same to wherever another collector looks for it: `--metrics-file` (File), `--tensorboard` (TensorFlowEvent), `--push`
(Push), `--prometheus` (PrometheusMetric, which reads names without hyphens: `val_accuracy`). Standard output then has none of it.

A fifth of the images is held out for validation, the same ones whatever the seed. An epoch's random numbers depend on the seed and
the epoch's number alone: with `--checkpoint-dir`, two runs of 5 epochs come to the same weights as one of 10. On one CPU model, a seed
gives the same numbers every time. Exit codes: 0; 1 when training diverges, or the data, the checkpoint or a place for the metrics
cannot be had; 2 for a wrong flag; 143 after SIGTERM, which ends training after the epoch that it falls into.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import math
import signal
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from katuna.metric_line import report

Array = NDArray[Any]
Network = list[Array]
"""Weights and biases in turn, a pair a layer."""
Metrics = Mapping[str, float]
Sink = Callable[[int, Metrics], None]
"""Takes the epoch and what was measured after it."""


def flag(default: Any, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class Config:
    """Every flag; raises ValueError for a value that cannot train."""

    epochs: int = flag(12, "passes over the training images; in addition to those of a checkpoint")
    batch_size: int = flag(32, "images a step")
    lr: float = flag(0.1, "learning rate")
    momentum: float = flag(0.9, "share of the last step that goes into the next")
    weight_decay: float = flag(0.0001, "pull of the weights towards zero")
    layers: int = flag(1, "hidden layers; none is softmax regression")
    hidden: int = flag(32, "units of a hidden layer")
    activation: Literal["relu", "tanh"] = flag("relu", "what a hidden unit makes of its sum")
    seed: int = flag(0, "of weights and order")
    checkpoint_dir: str = flag("", "folder of a checkpoint: training goes on from it and renews it after each epoch")
    metrics_file: str = flag("", "file that the metrics are appended to")
    metrics_format: Literal["text", "json"] = flag("text", "of that file: metric lines, or one JSON object a line")
    tensorboard: str = flag("", "folder for TensorBoard events")
    prometheus: int = flag(0, "port where http://HOST:PORT/metrics has the latest values, until 3 seconds after the end")
    push: bool = flag(False, "hand the metrics to the Katib SDK's report_metrics")

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1")
        for name in ("layers", "seed", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be 0 or more")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"--momentum is {self.momentum}; it must be at least 0 and below 1")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"--lr is {self.lr}; it must be above 0 and finite")
        if not 0 <= self.prometheus < 65536:
            raise ValueError(f"--prometheus is {self.prometheus}; a port is at most 65535")


def parse(argv: list[str] | None = None) -> Config:
    """The flags are Config's fields; anything else is an error (exit 2)."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    types = get_type_hints(Config)
    for each in dataclasses.fields(Config):
        kind = types[each.name]
        choices = get_args(kind) if get_origin(kind) is Literal else None
        name, common = "--" + each.name.replace("_", "-"), {"default": each.default, "help": each.metadata["doc"]}
        if kind is bool:
            parser.add_argument(name, action="store_true", **common)
        elif choices:
            parser.add_argument(name, choices=choices, **common)
        else:
            parser.add_argument(name, type=kind, metavar=kind.__name__.upper(), **common)
    try:
        return Config(**vars(parser.parse_args(argv)))
    except ValueError as error:
        parser.error(str(error))


# Data


@dataclass(frozen=True)
class Images:
    """`pixels` is float32 (count, 64) from 0 to 1, `labels` int64 (count,) from 0 to 9."""

    pixels: Array
    labels: Array

    def pick(self, which: Array) -> Images:
        return Images(self.pixels[which], self.labels[which])


def load() -> Images:
    """Read from scikit-learn's own file: importing it takes longer than training."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("error: the digits lie in the package scikit-learn, which is not installed here")
    file = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(file, delimiter=",", dtype=np.float32)
    return Images(table[:, :-1] / 16, table[:, -1].astype(np.int64))


def split(images: Images) -> tuple[Images, Images]:
    """(training, validation) images: a fifth held out, the same share of each class; depends on the labels alone."""
    order = np.random.default_rng(0).permutation(len(images.labels))
    held = np.zeros(len(order), dtype=bool)
    for label in np.unique(images.labels):
        members = order[images.labels[order] == label]
        held[members[: round(len(members) / 5)]] = True
    return images.pick(~held), images.pick(held)


# Model


def network_for(images: Images, config: Config) -> Network:
    """Weights as He et al. draw them: with the variance 2 / inputs, which keeps signals of the same size from layer to layer."""
    rng = np.random.default_rng(config.seed)
    sizes = [images.pixels.shape[1], *[config.hidden] * config.layers, 10]
    network: Network = []
    for inputs, outputs in pairwise(sizes):
        weights = rng.normal(0, math.sqrt(2 / inputs), (inputs, outputs))
        network += [weights.astype(np.float32), np.zeros(outputs, np.float32)]
    return network


def forward(network: Network, pixels: Array, activation: str) -> tuple[list[Array], Array]:
    """What goes into each layer, and the log-probabilities of the classes, (count, 10), that come out of the last."""
    inputs = [pixels]
    for weights, biases in zip(network[:-2:2], network[1:-2:2], strict=True):
        sums = inputs[-1] @ weights + biases
        inputs.append(np.maximum(sums, 0) if activation == "relu" else np.tanh(sums))
    scores = inputs[-1] @ network[-2] + network[-1]
    scores -= scores.max(1, keepdims=True)  # changes no probability, and keeps exp from overflowing
    return inputs, scores - np.log(np.exp(scores).sum(1, keepdims=True))


def backward(network: Network, inputs: list[Array], logs: Array, labels: Array, activation: str) -> Network:
    """The gradient of the mean cross-entropy by each array of the network: the chain rule, from the last layer to the first."""
    error = np.exp(logs)
    error[np.arange(len(labels)), labels] -= 1  # the derivative by the scores: what was said less what is so
    error /= len(labels)
    found: Network = []
    for weights, into in zip(network[-2::-2], inputs[::-1], strict=True):
        found = [into.T @ error, error.sum(0), *found]
        slope = into > 0 if activation == "relu" else 1 - into**2
        error = (error @ weights.T) * slope
    return found


def evaluate(network: Network, images: Images, activation: str) -> tuple[float, float]:
    """(mean cross-entropy, share of images told rightly)"""
    _, logs = forward(network, images.pixels, activation)
    loss = -logs[np.arange(len(images.labels)), images.labels].mean()
    return float(loss), float((logs.argmax(1) == images.labels).mean())


# Training


def train(config: Config, sink: Sink, stopped: Callable[[], bool] = lambda: False) -> Network:
    """Gives the metrics of each epoch to `sink`. Exits with 1 when a loss is no longer a number, with 143 when `stopped`."""
    training, validation = split(load())
    network = network_for(training, config)
    velocity = [np.zeros_like(array) for array in network]
    before = restore(config.checkpoint_dir, network, velocity)

    for epoch in range(before + 1, before + config.epochs + 1):
        total = 0.0
        order = np.random.default_rng([config.seed, epoch]).permutation(len(training.labels))
        for start in range(0, len(order), config.batch_size):
            batch = training.pick(order[start : start + config.batch_size])
            inputs, logs = forward(network, batch.pixels, config.activation)
            gradient = backward(network, inputs, logs, batch.labels, config.activation)
            for n, slope in enumerate(gradient):
                decay = config.weight_decay if slope.ndim == 2 else 0  # biases are left alone
                velocity[n] = config.momentum * velocity[n] - config.lr * (slope + decay * network[n])
                network[n] += velocity[n]
            total -= float(logs[np.arange(len(batch.labels)), batch.labels].sum())
        loss, accuracy = evaluate(network, validation, config.activation)
        metrics = {"train-loss": total / len(order), "val-loss": loss, "val-accuracy": accuracy}
        if not all(math.isfinite(value) for value in metrics.values()):
            sys.exit(
                f"error: training diverged in epoch {epoch}: the loss is not a number any more; try a lower --lr than {config.lr}"
            )
        sink(epoch, {name: round(value, 6) for name, value in metrics.items()})
        save(config.checkpoint_dir, network, velocity, epoch)
        if stopped():
            sys.exit(128 + signal.SIGTERM)
    return network


def restore(folder: str, network: Network, velocity: Network) -> int:
    """Puts a checkpoint's arrays into `network` and `velocity`; returns its epoch, 0 without one."""
    file = Path(folder, "checkpoint.npz")
    if not folder or not file.exists():
        return 0
    try:
        with np.load(file, allow_pickle=False) as arrays:
            saved = {name: arrays[name] for name in arrays}
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        sys.exit(f"error: {file} is not a checkpoint, or damaged: {error}")
    wanted = named(network, velocity)
    if {name: array.shape for name, array in saved.items()} != {
        "epoch": (),
        **{name: each.shape for name, each in wanted.items()},
    }:
        sys.exit(f"error: {file} is a checkpoint of another network; --layers and --hidden must stay as they were")
    for name, array in wanted.items():
        array[...] = saved[name]
    return int(saved["epoch"])


def named(network: Network, velocity: Network) -> dict[str, Array]:
    return {
        f"{kind}{n}": array for kind, arrays in (("network", network), ("velocity", velocity)) for n, array in enumerate(arrays)
    }


def save(folder: str, network: Network, velocity: Network, epoch: int) -> None:
    """The checkpoint is the old one or the new one, never half of it. Arrays only, so that loading runs no code."""
    if not folder:
        return
    file = Path(folder, "checkpoint.npz")
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_suffix(".half")
    with half.open("wb") as stream:
        np.savez(stream, **named(network, velocity), epoch=np.array(epoch))  # type: ignore[arg-type]
    half.replace(file)


# Where the metrics go


@contextmanager
def sinks(config: Config) -> Iterator[Sink]:
    """All that the flags ask for; standard output when they ask for none. They are closed at the end, whatever it is."""
    with ExitStack() as stack:
        chosen = []
        if config.metrics_file:
            chosen.append(stack.enter_context(into_file(config.metrics_file, config.metrics_format)))
        if config.tensorboard:
            chosen.append(stack.enter_context(into_events(config.tensorboard)))
        if config.prometheus:
            chosen.append(stack.enter_context(served(config.prometheus)))
        if config.push:
            chosen.append(pushed())

        def give(epoch: int, metrics: Metrics) -> None:
            for sink in chosen or [printed]:
                sink(epoch, metrics)

        yield give


def printed(epoch: int, metrics: Metrics) -> None:
    report({"epoch": epoch, **metrics})


@contextmanager
def into_file(path: str, form: str) -> Iterator[Sink]:
    """Each line with its time. Katib's JSON collector passes over values that are not texts."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("a", encoding="utf-8") as stream:

        def write(epoch: int, metrics: Metrics) -> None:
            if form == "text":
                report({"epoch": epoch, **metrics}, time=time.time(), file=stream)
                return
            texts = {name: str(value) for name, value in {"epoch": epoch, **metrics}.items()}
            stream.write(json.dumps({"timestamp": datetime.now(UTC).isoformat(), **texts}) + "\n")
            stream.flush()

        yield write


@contextmanager
def into_events(folder: str) -> Iterator[Sink]:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(folder)

    def write(epoch: int, metrics: Metrics) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        writer.add_event(Event(wall_time=time.time(), step=epoch, summary=Summary(value=values)))

    try:
        yield write
    finally:
        writer.close()


@contextmanager
def served(port: int) -> Iterator[Sink]:
    """A page in Prometheus' text format. Names have underscores there, and the last values stay for a scraper to see them."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    page = ""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: object) -> None:
            """A line for each scrape is no news."""

    def write(epoch: int, metrics: Metrics) -> None:
        nonlocal page
        gauges = {name.replace("-", "_"): value for name, value in {"epoch": epoch, **metrics}.items()}
        page = "".join(f"# TYPE {name} gauge\n{name} {value}\n" for name, value in gauges.items())

    try:
        server = ThreadingHTTPServer(("", port), Page)
    except OSError as error:
        sys.exit(f"error: --prometheus {port}: {error.strerror}")
    with server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield write
        time.sleep(3)
        server.shutdown()


def pushed() -> Sink:
    try:
        from kubeflow.katib import report_metrics
    except ImportError as error:
        sys.exit(f"error: --push: {error}; the package kubeflow-katib has it")

    def push(epoch: int, metrics: Metrics) -> None:
        try:
            report_metrics({"epoch": epoch, **metrics})
        except (ValueError, RuntimeError, OSError) as error:
            sys.exit(f"error: --push: {error}")

    return push


def main() -> None:
    config = parse()
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, _: asked.append(signum))
    try:
        with sinks(config) as sink, np.errstate(all="ignore"):  # train looks for itself at what is not a number
            train(config, sink, lambda: bool(asked))
    except OSError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
