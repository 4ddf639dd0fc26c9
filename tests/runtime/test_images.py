"""Labelled images by name and from folders, what is held out of them, and how they change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from katuna.runtime.images import Images, augmentation, picture, read, shifted, split
from pictures import COLOURS, pictures

CPU = torch.device("cpu")


@pytest.mark.parametrize(("dataset", "side", "validation"), [("digits", 8, 359), ("mnist5k", 28, 1000)])
def test_a_fifth_of_each_class_is_held_out(dataset: str, side: int, validation: int) -> None:
    images = read(dataset, CPU)
    training, held = split(images)
    pixels = images.pixels(torch.arange(len(images.labels)))
    assert pixels.shape[1:] == (1, side, side)
    assert (pixels.min(), pixels.max()) == (0, 1)
    assert len(held) == validation
    assert sorted([*training.tolist(), *held.tolist()]) == list(range(len(images.labels)))
    counts = torch.bincount(images.labels, minlength=10)
    assert (torch.bincount(images.labels[held]) - counts / 5).abs().max() <= 0.5
    assert torch.equal(split(images)[1], held)


def test_at_most_ten_thousand_images_are_held_out() -> None:
    images = Images(pixels=lambda which: which, labels=torch.arange(60_000) % 10, names=tuple("0123456789"), digest="")
    assert [len(part) for part in split(images)] == [50_000, 10_000]


def test_a_digest_names_images_and_labels(tmp_path: Path) -> None:
    known = {read(name, CPU).digest for name in ("digits", "mnist5k")}
    for name in ("one", "same", "another", "moved"):
        pictures(tmp_path / name, COLOURS, 2)
    (tmp_path / "another" / "red" / "0.png").write_bytes((tmp_path / "one" / "red" / "0.png").read_bytes() + b" ")
    (tmp_path / "moved" / "red" / "1.png").rename(tmp_path / "moved" / "blue" / "2.png")
    one, same, another, moved = (
        read("folder", CPU, data=str(tmp_path / name)).digest for name in ("one", "same", "another", "moved")
    )
    assert one == same
    assert len({*known, one, another, moved}) == 5


def test_a_shift_moves_each_image_by_its_own_offset() -> None:
    torch.manual_seed(0)
    images = torch.zeros(200, 2, 5, 6)
    images[:, 0, 2, 3] = 1
    images[:, 1, 2, 3] = 2
    moved = shifted(images, 1)
    assert moved.shape == images.shape
    places = (moved[:, 0] == 1).nonzero()[:, 1:]
    assert len(places) == 200
    assert torch.equal((moved[:, 1] == 2).nonzero()[:, 1:], places)
    assert {tuple(place) for place in places.tolist()} == {(row, column) for row in (1, 2, 3) for column in (2, 3, 4)}
    assert torch.equal(shifted(images, 0), images)


def test_augmentation_gives_each_image_its_own_draw() -> None:
    torch.manual_seed(0)
    same = torch.rand(1, 3, 16, 16).expand(20, -1, -1, -1)
    changed = augmentation("crop-flip", 16)(same)
    assert changed.shape == same.shape
    assert len({image.numpy().tobytes() for image in changed}) > 10


def write_idx(folder: Path, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> None:
    """The files of MNIST as they are when downloaded and unpacked; torchvision wants the test set beside the training set."""
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
            (folder / f"{part}-{kind}-ubyte").write_bytes(header + array.tobytes())


@pytest.mark.parametrize(("dataset", "name"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_downloaded_datasets_are_read_from_their_folder(tmp_path: Path, dataset: str, name: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    write_idx(tmp_path / name / "raw", images, labels)
    found = read(dataset, CPU, data=str(tmp_path))
    pixels = found.pixels(torch.arange(20))
    assert torch.equal((pixels * 255).round().to(torch.uint8).squeeze(1), torch.from_numpy(images))
    assert found.labels.tolist() == labels.tolist()


def test_a_dataset_that_cannot_be_downloaded_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    def unreachable(*_args: object, **_flags: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(datasets, "MNIST", unreachable)
    with pytest.raises(
        SystemExit, match=r"mnist is not in 'data' and could not be downloaded \(no network\); digits and mnist5k"
    ):
        read("mnist", CPU)


def test_a_folder_may_say_what_is_held_out(tmp_path: Path) -> None:
    pictures(tmp_path / "train", COLOURS, 3)
    pictures(tmp_path / "val", COLOURS, 1)
    images = read("folder", CPU, data=str(tmp_path), size=8)
    training, held = split(images)
    assert (len(training), images.labels[held].tolist()) == (6, [0, 1])


@pytest.mark.parametrize("names", [(), ("train", "val")])
def test_a_folder_that_is_none_of_classes_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    for number, name in enumerate(names):
        pictures(tmp_path / name, dict(list(COLOURS.items())[number:]), 1)
    says = "differ in classes: \\['blue'\\]" if names else "has no folder of images for each class"
    with pytest.raises(SystemExit, match=says):
        read("folder", CPU, data=str(tmp_path))


def test_all_files_that_are_no_images_are_listed(tmp_path: Path) -> None:
    pictures(tmp_path, COLOURS, 4)
    for name in ("blue/1.png", "red/3.png"):
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\nnot")
    with pytest.raises(SystemExit, match=r"no images: blue/1.png, red/3.png; mend"):
        read("folder", CPU, data=str(tmp_path))


def test_a_file_is_no_folder_of_classes(tmp_path: Path) -> None:
    (tmp_path / "t.csv").touch()
    with pytest.raises(SystemExit, match=r"^error: .*t\.csv has no folder of images for each class: .*Not a directory"):
        read("folder", CPU, data=str(tmp_path / "t.csv"))


@pytest.mark.parametrize("beside", ["test", "valid"])
def test_parts_are_no_classes(tmp_path: Path, beside: str) -> None:
    for name in ("train", beside):
        pictures(tmp_path / name, COLOURS, 2)
    with pytest.raises(SystemExit, match=r"^error: .* has train and no val: rename .*, or give --data .*/train, of which"):
        read("folder", CPU, data=str(tmp_path))
    pictures(tmp_path / "vehicles", {"train": (0, 0, 0), "car": (9, 9, 9)}, 2)
    assert read("folder", CPU, data=str(tmp_path / "vehicles"), size=8).names == ("car", "train")


def test_an_image_too_large_to_unpack_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    pictures(tmp_path, COLOURS, 2)
    Image.new("RGB", (30, 30)).save(tmp_path / "red" / "1.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with pytest.raises(SystemExit, match=r"no images: red/1.png; mend"):
        read("folder", CPU, data=str(tmp_path))
    with pytest.raises(SystemExit, match=r"red/1\.png is broken: Image size .* exceeds limit .*; mend or remove it"):
        picture(str(tmp_path / "red" / "1.png"))


def test_one_of_each_class_is_held_out_at_least(tmp_path: Path) -> None:
    pictures(tmp_path / "two", COLOURS, 2)
    images = read("folder", CPU, data=str(tmp_path / "two"))
    training, held = split(images)
    assert (images.labels[training].tolist(), images.labels[held].tolist()) == ([0, 1], [0, 1])
    pictures(tmp_path / "one", COLOURS, 1)
    with pytest.raises(SystemExit, match="each class has one image"):
        split(read("folder", CPU, data=str(tmp_path / "one")))
    pictures(tmp_path / "class", {"blue": COLOURS["blue"]}, 9)
    with pytest.raises(SystemExit, match="images of one class, blue; there must be"):
        read("folder", CPU, data=str(tmp_path / "class"))
