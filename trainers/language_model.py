"""Train a small GPT to predict the next byte of a text; the loop is visible.

    python trainers/language_model.py
    python trainers/language_model.py --data book.txt --epochs 10
    python trainers/language_model.py --data sources/ --width 512 --layers 8 --precision bf16 --compile --peak-flops 989e12
    torchrun --nproc-per-node 2 trainers/language_model.py --strategy fsdp
    python trainers/language_model.py --help

Prints what the text is, and one line an epoch that Katib's StdOut metrics collector reads by its default filter:

    epoch=3 train-bits-per-byte=1.3 bits-per-byte=1.5 tokens-per-second=6500 mfu=0.5

`bits-per-byte` is judged on text that the model was not trained on: of a folder each tenth file, as the hash of its name says; of one
file, or where that would leave a part empty, the last tenth of the bytes. Every byte counts once, with half a context at least before it.
`tokens-per-second` counts training alone, of all ranks. `mfu` is model FLOPs utilisation: what the model's matrix products need for
those tokens, over `--peak-flops` or else over what a plain matrix product was measured to reach on this device at the start.

Without --data the text is a pinned part of the Python standard library's sources: PACKAGES, of the Python that runs this.

Several ranks (torchrun, or the replicas of a PyTorchJob) share each batch, in DDP or sharded by FSDP2: N of them train as one does. On
one CPU model a seed gives the same weights every time, also through a kill and a resume. With `$KATUNA_TRIAL_DIR` set, TensorBoard
events, checkpoints and the export go there. Exit codes: 0; 1 when training diverges or there is no text; 2 for a wrong flag; 143
after SIGTERM, when a checkpoint was saved.

Measured on 2 CPU cores, Python 3.11.7, torch 2.14.1, `--device cpu`, seeds 1 to 3: **1.461 bits per byte** (1.458 to 1.463) after 14 min
55 s to 15 min 52 s of CPU time (8 min 12 s with both cores), at 11,477 tokens/s and an mfu of 0.44 with both. An interpolated Kneser-Ney
model of order 5 of the same 2.55 MB has 1.723 on the same 0.26 MB held out (benchmarks/kneser_ney.py). GPUs and FSDP2 across them were
not measured.
"""

from __future__ import annotations

import hashlib
import math
import sysconfig
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from katuna.runtime.arguments import Common, bounded, flag, parse
from katuna.runtime.checkpoint import Checkpoints, trial_folder
from katuna.runtime.data import dataset
from katuna.runtime.loader import Order, fed
from katuna.runtime.parallel import syncing, weights, wrap
from katuna.runtime.precision import Precision, precision, prepared
from katuna.runtime.randomness import seed
from katuna.runtime.reporter import Reporter
from katuna.runtime.stop import Stop
from katuna.runtime.world import World, world

METRICS = ("train-bits-per-byte", "bits-per-byte", "tokens-per-second", "mfu")
PACKAGES = (
    *("asyncio", "collections", "concurrent", "email", "html", "http", "importlib"),
    *("json", "logging", "multiprocessing", "unittest", "urllib", "xml", "xmlrpc"),
)
"""Of the standard library; every Python from 3.11 on has them. Their sources are 2.8 MB, nearly a tenth of it held out."""

LIBRARY = Path(sysconfig.get_path("stdlib"))


@dataclass(frozen=True)
class Config(Common):
    """Every flag; raises ValueError for a value that cannot train."""

    FREE = Common.FREE | {"peak_flops"}

    data: str = flag(
        "", "a text, or a folder of them; empty is $KATUNA_DATA, else sources of Python. A tenth is held out, see above"
    )
    epochs: int = flag(2, "passes over the training text")
    batch_size: int = flag(8, "windows of the text a step, of all ranks together")
    context: int = flag(256, "bytes in a window: how far back the model sees")
    layers: int = flag(4, "transformer blocks")
    width: int = flag(128, "numbers that stand for a byte between blocks")
    heads: int = flag(2, "attention heads of a block")
    grams: int = flag(5, "longest run of bytes that has an embedding of its own; 1 is single bytes")
    rows: int = flag(65521, "embeddings that all runs of 2 and more bytes share by their hashes; a prime below 2**31")
    lr: float = flag(0.003, "highest learning rate; it warms up and then falls along a cosine to a twentieth")
    runs_lr: float = flag(6.0, "learning rate of the embeddings of runs, as a multiple of the others': most are seen rarely")
    warm_up: int = flag(50, "steps in which the learning rate rises")
    weight_decay: float = flag(0.1, "pull of the matrices towards zero; embeddings are not pulled")
    clip: float = flag(1.0, "largest norm of the gradients; 0 does not clip")
    peak_flops: float = flag(0.0, "of one device, for mfu; 0 measures what a matrix product reaches")
    export: bool = flag(True, "leave the trained model in export/")

    def __post_init__(self) -> None:
        super().__post_init__()
        bounded(self, "epochs", "batch_size", "layers", "width", "heads", "grams", "rows", "warm_up", least=1)
        bounded(self, "context", least=2)
        bounded(self, "rows", below=2**31)
        bounded(self, "weight_decay", "peak_flops", least=0)
        bounded(self, "lr", "runs_lr", above=0)
        if self.workers:
            raise ValueError(f"--workers is {self.workers}; it must be 0: the text lies in memory, and there is nothing to load")
        if self.width % (2 * self.heads):
            raise ValueError(f"--width is {self.width}; it must be a multiple of twice --heads, which is {self.heads}")


# Data


@dataclass(frozen=True)
class Text:
    """`training` and `held` are uint8 (bytes,); `digest` is the SHA-256 of both, one after the other."""

    training: Tensor
    held: Tensor
    files: int

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.training.numpy().tobytes() + self.held.numpy().tobytes()).hexdigest()


def corpus(data: str = "") -> Text:
    """Of a folder, each tenth file is held out, as the hash of its name says; of a file, or of so few that one part would be empty, the
    last tenth. Exits with 1 and one line when there is none."""
    place = dataset(data)
    if place is not None and place.is_file():
        return cut([content(place)])
    names = library() if place is None else names_in(place)
    contents = [content((place or LIBRARY) / name) for name in names]
    training, held = (
        [each for name, each in zip(names, contents, strict=True) if is_held(name) is part] for part in (False, True)
    )
    if not any(training) or not any(held):
        return cut(contents)
    return Text(as_tensor(training), as_tensor(held), len(names))


def content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SystemExit(f"error: {file} cannot be read: {error.strerror}; give a text of your own with --data") from None


def cut(contents: list[bytes]) -> Text:
    """Its last tenth held out."""
    whole = as_tensor(contents)
    training, held = whole.tensor_split([len(whole) - len(whole) // 10])
    return Text(training, held, len(contents))


def library() -> list[str]:
    """The files of PACKAGES below LIBRARY, without tests: some versions of Python have them there, others do not."""
    missing = [package for package in PACKAGES if not (LIBRARY / package / "__init__.py").is_file()]
    if missing:
        raise SystemExit(f"error: {LIBRARY} has no sources of {', '.join(missing)}; give a text of your own with --data")
    found = [f"{package}/{name}" for package in PACKAGES for name in names_in(LIBRARY / package) if name.endswith(".py")]
    return [name for name in found if not {"test", "tests"} & {*name.split("/")}]


def names_in(folder: Path) -> list[str]:
    """Of all files below, sorted; hidden ones and the dataset's manifest are no text."""
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [name for name in found if name != "dataset.json" and not any(part.startswith(".") for part in name.split("/"))]


def fit(text: Text, config: Config) -> Text:
    """The same text; exits with 1 and one line where it is too short."""
    least = {"to train on": (len(text.training), 2 * config.context + 1), "held out": (len(text.held), config.context)}
    short = [f"{there} bytes are {what} and {wanted} must be" for what, (there, wanted) in least.items() if there < wanted]
    if short:
        raise SystemExit(f"error: the text is too short: {', '.join(short)}; give more of it with --data, or a smaller --context")
    return text


def is_held(name: str) -> bool:
    """Whether a file is for judging; `name` is its path below the folder."""
    return hashlib.sha256(name.encode()).digest()[0] % 10 == 0


def as_tensor(parts: Iterable[bytes]) -> Tensor:
    return torch.from_numpy(np.frombuffer(b"".join(parts), np.uint8).copy())


def windows(text: Tensor, context: int, shift: int, which: Tensor) -> tuple[Tensor, Tensor]:
    """Bytes and those that follow them, both int64 (count, context), of the windows `which`, all moved by `shift` bytes."""
    rows = text[(which * context + shift)[:, None] + torch.arange(context + 1)].long()
    return rows[:, :-1], rows[:, 1:]


# Model


class Block(nn.Module):
    """Attention to what came before, then a layer of each position's own; both add to what they take, (batch, length, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.attention, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, taken: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        parts = self.attention(self.first(taken)).unflatten(2, (3 * self.heads, -1)).transpose(1, 2)
        queries, keys, values = parts.chunk(3, dim=1)
        found = functional.scaled_dot_product_attention(turned(queries, turns), turned(keys, turns), values, is_causal=True)
        taken = taken + self.out(found.transpose(1, 2).flatten(2))
        return taken + self.down(functional.relu(self.up(self.second(taken))).square())  # type: ignore[no-any-return]


def turned(vectors: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions: each pair of numbers turned by an angle that grows with the position."""
    (cosine, sine), (left, right) = turns, vectors.chunk(2, dim=-1)
    return torch.cat((left * cosine - right * sine, left * sine + right * cosine), dim=-1)


class GPT(nn.Module):
    """Bytes, int64 (batch, length), to logits of the byte after each, (batch, length, 256)."""

    def __init__(self, *, layers: int, width: int, heads: int, grams: int, rows: int) -> None:
        super().__init__()
        self.lengths, self.rows, self.side = range(2, grams + 1), rows, width // heads
        self.bytes, runs = nn.Embedding(256, width), nn.Embedding(rows, width)
        self.runs = runs if self.lengths else None  # DDP wants no weights that nothing uses
        blocks = [Block(width, heads) for _ in range(layers)]
        self.blocks = nn.ModuleList(blocks)
        self.last, self.head = nn.LayerNorm(width, bias=False), nn.Linear(width, 256, bias=False)
        nn.init.normal_(self.bytes.weight, std=0.5)
        nn.init.normal_(runs.weight, std=0.02)
        for block in blocks:  # at first a block changes nothing
            nn.init.zeros_(block.out.weight)
            nn.init.zeros_(block.down.weight)
        nn.init.zeros_(self.head.weight)

    def forward(self, text: Tensor) -> Tensor:
        position = torch.arange(text.shape[1], device=text.device)
        speed = 10_000 ** -torch.linspace(0, 1, self.side // 2, device=text.device)
        angle = position[:, None] * speed
        turns = angle.cos(), angle.sin()
        taken = self.bytes(text)
        if self.runs is not None:
            taken = taken + self.runs(self.hashes(text)).sum(2)
        for block in self.blocks:
            taken = block(taken, turns)
        return self.head(self.last(taken))  # type: ignore[no-any-return]

    def hashes(self, text: Tensor) -> Tensor:
        """Of the runs of 2 and more bytes that end at each place: int64 (batch, length, grams - 1), each below `rows`."""
        found, each = [], text
        for length in self.lengths:
            before = functional.pad(each, (1, 0))[:, :-1]
            each = (before * 48_271 + text + length) % self.rows
            found.append(each)
        return torch.stack(found, dim=2)


def flops_per_token(model: nn.Module, config: Config) -> int:
    """Of training: 6 for each weight that multiplies, so not for embeddings (2 forward, 4 backward), and 12 * width a layer for each
    place attended to: half the context on average, as none looks ahead."""
    looked_up = {id(weight) for part in model.modules() if isinstance(part, nn.Embedding) for weight in part.parameters()}
    multiplied = sum(weight.numel() for weight in model.parameters() if id(weight) not in looked_up and weight.dim() > 1)
    return 6 * multiplied + 6 * config.layers * config.width * config.context


def optimizer_for(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    """AdamW; only the blocks' matrices decay."""
    runs: list[Tensor] = []
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, weight in model.named_parameters():
        group = runs if "runs" in name else matrices if "blocks" in name and weight.dim() > 1 else others
        group.append(weight)
    groups: list[dict[str, Any]] = [
        {"params": runs, "lr": config.lr * config.runs_lr, "weight_decay": 0.0},
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, config.lr, betas=(0.9, 0.99), fused=True)


def pace(step: int, *, warm_up: int, steps: int) -> float:
    """The share of the highest learning rate in `step`, from 0."""
    if step < warm_up:
        return (step + 1) / warm_up
    done = min(1.0, (step - warm_up) / max(1, steps - warm_up))
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))


# Training


def train(config: Config, here: World, report: Reporter, stop: Stop) -> None:  # noqa: PLR0915
    text, speed = fit(corpus(config.data), config), precision(config, here)
    seed(config.seed)
    shape = {name: getattr(config, name) for name in ("layers", "width", "heads", "grams", "rows")}
    plain = GPT(**shape)
    told(f"{text.files} files, {len(text.training)} bytes to train on, {len(text.held)} held out, SHA-256 {text.digest}", here)
    most = most_tokens(flops_per_token(plain, config), config, speed, here)
    model = wrap(prepared(plain, config, here), here, config.strategy, (Block,))
    optimizer = optimizer_for(model, config)
    order = Order((len(text.training) - 1) // config.context - 1, config.batch_size, here, seed=config.seed)
    steps = config.epochs * len(order)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(pace, warm_up=config.warm_up, steps=steps))
    state = {"model": model, "optimizer": optimizer, "schedule": schedule, "scaler": speed.scaler, "order": order}
    place, keep = trial_folder(config.trial_dir, "checkpoints"), config.keep_checkpoints
    kept = Checkpoints(place, here, state, config=config, data=text.digest, keep=keep, asynchronous=config.async_checkpoints)

    step, values = kept.restore()
    metrics, known = values.get("metrics", {}), values.get("judged", False)
    total, spent = here.part(values.get("loss", 0.0)), values.get("seconds", 0.0)  # of the loss and of training, over this epoch

    def judge(epoch: int) -> None:
        """Evaluates, reports and saves that; nothing of it when SIGTERM comes first."""
        bits = judged(model, text.held, config, speed, here, stop)
        if stop.reason == "SIGTERM":
            return
        done = order.done or order.count
        rate = done * config.context / spent
        metrics.update(zip(METRICS, (here.sum(total).item() / done / math.log(2), bits, rate, rate / most), strict=True))
        report({"epoch": epoch, **metrics})
        kept.save(step, loss=here.sum(total).item(), seconds=spent, judged=True, metrics=metrics)

    if (stop.now(step) or order.epoch >= config.epochs) and step:  # it had ended before, perhaps without a judgement
        epoch = order.epoch + bool(order.done)
        report({"epoch": epoch, **metrics}) if known else judge(epoch)
    while order.epoch < config.epochs and not stop:
        if not order.done:
            total, spent = here.part(0.0), 0.0
        model.train()
        load = partial(windows, text.training, config.context, order.epoch * 97 % config.context)  # no two epochs cut alike
        began = time.perf_counter() - spent
        for tokens, following in fed(order.batches(), load, here, ahead=0):
            total += gradients(config, model, order, speed, tokens, following) * (order.whole / here.size)
            speed.step(optimizer, model, config.clip)
            schedule.step()
            report.stepped()
            step += 1
            due = config.checkpoint_every and step % config.checkpoint_every == 0
            if stop.now(step) or due or order.done == order.count:  # the end of an epoch is saved before it is judged
                loss_sum, spent = here.sum(total).item(), time.perf_counter() - began  # the sum waits for the device
                kept.save(step, loss=loss_sum, seconds=spent, judged=False, metrics=metrics)
            if stop:
                break
        judge(order.epoch + bool(stop))
    kept.close()
    if stop.told():
        return
    if config.export:
        leave(config, here, model, shape, text, metrics)
    stop.finished = True


def gradients(config: Config, model: nn.Module, order: Order, speed: Precision, tokens: Tensor, following: Tensor) -> Tensor:
    """Those of a batch, in as many passes as asked; returns its mean loss as `Order.share` counts this rank's part."""
    total, passes = torch.zeros((), device=tokens.device), order.passes(config.accumulate)
    for number, (inputs, targets) in enumerate(zip(tokens.tensor_split(passes), following.tensor_split(passes), strict=True), 1):
        with syncing(model, last=number == passes):
            with speed.autocast():
                loss = functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
            loss = loss * order.share(targets)
            speed.backward(loss)
        total += loss.detach()
    return total


def told(line: str, here: World) -> None:
    if here.is_main:
        print(line, flush=True)


def most_tokens(token_flops: int, config: Config, speed: Precision, here: World) -> float:
    """Tokens a second at which all devices would be at their peak, which it tells: mfu is the share of it."""
    peak = config.peak_flops or matrix_flops(speed, here)
    told(f"peak {peak:.4g} FLOP/s a device, {'as given' if config.peak_flops else 'as measured'}; {token_flops} a token", here)
    return here.sum(torch.tensor(peak / token_flops, device=here.device)).item()


def matrix_flops(speed: Precision, here: World) -> float:
    """What the product of two large matrices reaches a second, in the precision of the training: the best of a fifth of a second's."""
    side = 8192 if here.device.type == "cuda" else 1024
    left, right = torch.rand(2, side, side, device=here.device)
    best, until = math.inf, time.perf_counter() + 0.2
    while best == math.inf or time.perf_counter() < until:
        began = time.perf_counter()
        with speed.autocast():
            (left @ right)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


@torch.no_grad()
def judged(model: nn.Module, held: Tensor, config: Config, speed: Precision, here: World, stop: Stop) -> float:
    """Bits a byte of the held-out text, each byte judged once: windows overlap by half, and what a window sees for the first time
    counts. Before the first byte there is a zero byte. The ranks share the windows. NaN when SIGTERM comes between."""
    model.eval()
    size = config.context
    padded = functional.pad(held, (1, 0))
    ends = torch.tensor([*range(size, len(held), size // 2), len(held)])
    new = torch.diff(ends, prepend=torch.zeros(1, dtype=torch.long))
    order = Order(len(ends), 4 * config.batch_size, here, seed=0, shuffle=False)
    places = torch.arange(size, device=here.device)

    def load(which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = padded[(ends[which] - size)[:, None] + torch.arange(size + 1)].long()
        return rows[:, :-1], rows[:, 1:], new[which]

    total = torch.zeros((), device=here.device)
    for inputs, targets, counted in fed(order.batches(), load, here, ahead=0):
        if stop.told():
            return math.nan
        with speed.autocast():
            logits = model(inputs)
        losses = functional.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
        if order.share(targets):
            total += losses[places >= size - counted[:, None]].sum()
    return float(here.sum(total)) / len(held) / math.log(2)


def leave(config: Config, here: World, model: nn.Module, shape: dict[str, Any], text: Text, metrics: dict[str, float]) -> None:
    trained, place = weights(model), trial_folder(config.trial_dir, "export")
    if not here.is_main or place is None:
        return
    from katuna.runtime.export import Field, Schema, export

    plain = GPT(**shape)
    plain.load_state_dict(trained)
    example = text.training[: 2 * config.context].view(2, -1)[:, : config.context].long()
    given = Field("bytes", "int64", (-1,), doc=f"0 to 255, up to {config.context} of them: the context trained with")
    logits = Field("logits", "float", (-1, 256), doc="of the byte after each")
    schema = Schema("language-model", (given,), (logits,), extra={"text_sha256": text.digest})
    beside: dict[str, Any] = {"model_arguments": shape, "trainer": Path(__file__).stem}
    export(place, plain.eval(), (example,), config=config, schema=schema, metrics=metrics, **beside)


def main() -> None:
    config = parse(Config, doc=__doc__ or "")
    with world(config.device) as here, Reporter(config, here, METRICS) as report, Stop(config, here) as stop:
        train(config, here, report, stop)


if __name__ == "__main__":
    main()
