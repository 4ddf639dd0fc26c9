"""Folders of pictures, each of one colour, a folder a class."""

from __future__ import annotations

from pathlib import Path

COLOURS = {"blue": (0, 0, 255), "red": (255, 0, 0)}


def pictures(folder: Path, classes: dict[str, tuple[int, int, int]], count: int) -> Path:
    from PIL import Image

    for name, colour in classes.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (20 + number, 16), colour).save(folder / name / f"{number}.png")
    return folder
