"""Images a second of trainers/image_classifier.py on two ranks next to a loop over torch's DistributedDataParallel written by hand,
with the same model, data, optimizer and evaluation; then what its speed flags and its loader's processes are worth on
this device: `python benchmarks/ddp.py [n]`. Ratios on stdout, the same as JSON on the last line."""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sidebyside import machine, program

TRAINER = Path(__file__).parents[1] / "trainers" / "image_classifier.py"
EPOCHS, BATCH, WIDTH, IMAGES = 4, 128, 16, 4000
COMMON = [f"--epochs={EPOCHS}", f"--batch-size={BATCH}", f"--width={WIDTH}", "--dropout=0", "--device=cpu"]
FLAGS = ["--dataset=mnist5k", *COMMON]
PICTURES, PICTURE_SIDE, CUT_SIDE = 1000, 256, 48
"""Of a folder: that many JPEGs to train on, their side, and the side that they are cut to."""


def images_a_second(command: Sequence[str], size: int, images: int = IMAGES) -> float:
    """From the line of the first epoch to that of the last: starting and the first steps, which differ from the others, stay out.
    `images` are those of an epoch."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = str(one.getsockname()[1])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KATUNA_")}
    shared = {**kept, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    if size > 1:
        shared.update(WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    others = [subprocess.Popen(command, env={**shared, "RANK": str(rank)}, stdout=subprocess.DEVNULL) for rank in range(1, size)]
    own = {**shared, "RANK": "0"} if size > 1 else shared
    with subprocess.Popen(command, env=own, stdout=subprocess.PIPE, text=True) as main:
        assert main.stdout is not None
        seen = [time.perf_counter() for line in main.stdout if line.startswith("epoch=")]
    if main.returncode or any(other.wait() for other in others) or len(seen) != EPOCHS:
        raise SystemExit(f"error: {' '.join(command)} failed")
    return (EPOCHS - 1) * images / (seen[-1] - seen[0])


def by_hand() -> None:
    """The loop as one writes it with torch alone; the model and the images are the trainer's."""
    import torch
    import torch.distributed as dist
    from torch.nn.functional import cross_entropy
    from torch.nn.parallel import DistributedDataParallel

    trainer = program("image_classifier")
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    config = trainer.Config(dataset="mnist5k", width=WIDTH, dropout=0.0)
    images = trainer.read(config.dataset, torch.device("cpu"))
    training, held = trainer.split(images)
    plain, _ = trainer.built(config, images.pixels(training[:1000]), 10)
    model = DistributedDataParallel(plain)
    optimizer = torch.optim.AdamW(model.parameters(), config.lr, weight_decay=config.weight_decay)
    steps = EPOCHS * -(-IMAGES // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=steps, cycle_momentum=False)
    for epoch in range(1, EPOCHS + 1):
        model.train()
        total = torch.zeros(())
        order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(epoch))
        for batch in order.split(BATCH):
            which = training[batch[rank::size]]
            loss = cross_entropy(model(images.pixels(which)), images.labels[which], label_smoothing=config.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach() * len(which)
        model.eval()
        sums = torch.zeros(3)
        sums[0] = total
        with torch.no_grad():
            for part in held[rank::size].split(500):
                scores = model(images.pixels(part))
                sums[1] += cross_entropy(scores, images.labels[part], reduction="sum")
                sums[2] += (scores.argmax(1) == images.labels[part]).sum()
        dist.all_reduce(sums)
        if rank == 0:
            print(
                f"epoch={epoch} train-loss={sums[0] / IMAGES} val-loss={sums[1] / len(held)} val-accuracy={sums[2] / len(held)}"
            )
    dist.destroy_process_group()


def in_turn(commands: Mapping[str, tuple[Sequence[str], int]], n: int, images: int = IMAGES) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(n):
        for name, (command, size) in commands.items():
            found[name].append(images_a_second(command, size, images))
    return found


def with_pictures(folder: Path) -> None:
    """JPEGs of noise in two classes, PICTURES to train on and a tenth of that to judge by."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    for part, count in (("train", PICTURES), ("val", PICTURES // 10)):
        for number in range(count):
            place = folder / part / "ab"[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            pixels = draw.integers(0, 256, (PICTURE_SIDE // 8, PICTURE_SIDE // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            Image.fromarray(pixels).save(place / f"{number}.jpg")


def show(found: Mapping[str, Sequence[float]], base: str) -> dict[str, float]:
    """Ratios to `base`: the median of those of each turn, and the ratio of the best, which other work on the machine disturbed least."""
    ratios = {}
    for name, rates in found.items():
        turns = [one / other for one, other in zip(rates, found[base], strict=True)]
        ratios[name] = statistics.median(turns)
        best = max(rates) / max(found[base])
        every = " ".join(f"{ratio:.2f}" for ratio in turns)
        print(
            f"{name:24} median {statistics.median(rates):8.0f} images/s   ratio {ratios[name]:.3f} (of the best {best:.3f}; {every})"
        )
    return ratios


def main(n: int) -> None:
    python = sys.executable
    trainer = [python, str(TRAINER), *FLAGS]
    print(f"{machine('torch')}; one thread a rank; n = {n} each, in turn; small CNN of width {WIDTH}, 4,000 images of 28 x 28")
    print(f"\ntwo ranks, gloo, batches of {BATCH}")
    shared = show(in_turn({"by hand": ([python, __file__, "--by-hand"], 2), "our trainer": (trainer, 2)}, n), "by hand")
    print("\none process, with and without a flag")
    flags = {"bf16": "--precision=bf16", "channels_last": "--channels-last", "compile": "--compile"}
    alone = {"float32": (trainer, 1), **{name: ([*trainer, flag], 1) for name, flag in flags.items()}}
    ratios = show(in_turn(alone, n), "float32")
    with tempfile.TemporaryDirectory() as name:
        with_pictures(Path(name))
        print(f"\none process, {PICTURES:,} JPEGs of {PICTURE_SIDE} x {PICTURE_SIDE} cut to {CUT_SIDE} x {CUT_SIDE}")
        reading = [python, str(TRAINER), "--dataset=folder", f"--data={name}", f"--size={CUT_SIDE}", *COMMON]
        fed = {f"{count} workers": ([*reading, f"--workers={count}"], 1) for count in (0, 1, 2)}
        loading = show(in_turn(fed, n, PICTURES), "0 workers")
    found = {"ddp": shared["our trainer"], "flags": ratios, "loading": loading}
    print(json.dumps({"machine": machine("torch"), "n": n, **found}))


if __name__ == "__main__":
    if sys.argv[1:] == ["--by-hand"]:
        by_hand()
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
