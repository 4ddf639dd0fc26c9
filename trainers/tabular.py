"""Train a network on a table, to tell a class or a number from numeric and categorical columns; one file, the loop visible.

python trainers/tabular.py --dataset breast-cancer
python trainers/tabular.py --data houses.parquet --target price
DB=postgresql://... python trainers/tabular.py --query "select * from loans" --url-env DB --target repaid
python trainers/tabular.py --help

Measured beside scikit-learn on five splits each of breast_cancer, diabetes and diamonds (trainers/README.md, benchmarks/tabular.py; defaults,
2 CPU cores, torch 2.14.1): ROC AUC 0.994, RMSE 57.7 and RMSE 544. Logistic and ridge regression win the first two, small ones, by a little;
on the third, 54,000 rows, it is level with a random forest in RMSE and behind it in MAE. GPUs were not measured.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from katuna.runtime import table
from katuna.runtime.arguments import Common, bounded, flag, parse
from katuna.runtime.checkpoint import Checkpoints, trial_folder
from katuna.runtime.data import dataset, digest
from katuna.runtime.loader import Order
from katuna.runtime.parallel import syncing, wrap
from katuna.runtime.precision import Precision, precision, prepared
from katuna.runtime.randomness import seed
from katuna.runtime.reporter import Reporter
from katuna.runtime.stop import Stop
from katuna.runtime.table import Columns, Roles
from katuna.runtime.world import World, world

METRICS = {
    "classification": ("train-loss", "val-loss", "val-accuracy", "val-balanced-accuracy", "val-auc"),
    "regression": ("train-loss", "val-rmse", "val-mae", "val-r2"),
}
DECIDES = {"classification": "val-loss", "regression": "val-rmse"}
"""Of which the lowest makes the best epoch."""


@dataclass(frozen=True)
class Config(Common):
    """Every flag; raises ValueError for a value that cannot train."""

    FREE = Common.FREE | {"url_env", "epochs", "patience"}

    dataset: Literal["", "breast-cancer", "diabetes", "iris", "wine"] = flag("", "a table of scikit-learn, instead of --data")
    query: str = flag("", "SQL whose rows are the table, instead of --data; ORDER BY, for a resume to see the same")
    url_env: str = flag("", "environment variable that holds the SQLAlchemy URL of --query's database")
    target: str = flag("", "column to tell from the others; --dataset knows its own")
    task: Literal["auto", "classification", "regression"] = flag("auto", "auto: texts and at most 20 whole numbers are classes")
    categorical: str = flag("", "columns of numbers, between commas, that are names of categories")
    drop: str = flag("", "columns, between commas, that are left out")
    split_column: str = flag("", "column that says train, validation or test of each row; empty splits at random")
    val_share: float = flag(0.2, "of rows, held out to choose the best epoch; of each class its share")
    test_share: float = flag(0.0, "of rows, held out for the figures at the end")
    split_seed: int = flag(0, "of the random split")
    epochs: int = flag(200, "most passes over the training rows")
    patience: int = flag(20, "epochs without a better one after which training ends")
    batch_size: int = flag(0, "rows a step; 0 is about a 64th of them, from 32 to 256")
    lr: float = flag(0.002, "learning rate of AdamW")
    weight_decay: float = flag(0.01, "pull of the weights towards zero")
    dropout: float = flag(0.1, "share of the features that a layer does not see in a step")
    width: int = flag(128, "features of each hidden layer")
    depth: int = flag(2, "hidden layers")
    embedding: int = flag(8, "features that each column becomes")
    bins: int = flag(16, "pieces of a number's piecewise linear encoding, at quantiles")
    heads: int = flag(8, "members of the ensemble that shares the hidden layers")
    average: float = flag(0.98, "of the mean of the weights over steps that is judged and kept; 0 is the last weights")
    export: bool = flag(True, "leave the trained model in export/")

    def __post_init__(self) -> None:
        super().__post_init__()
        bounded(self, "epochs", "patience", "width", "depth", "embedding", "bins", "heads", least=1)
        bounded(self, "batch_size", "weight_decay", "split_seed", least=0)
        bounded(self, "dropout", "average", "test_share", least=0, below=1)
        bounded(self, "val_share", above=0, below=1)
        bounded(self, "lr", above=0)
        if self.val_share + self.test_share >= 1:
            raise ValueError("--val-share and --test-share together must leave rows for training")
        if sum(map(bool, (self.data, self.query, self.dataset))) > 1:
            raise ValueError("--data, --query and --dataset exclude one another")
        if bool(self.query) != bool(self.url_env):
            raise ValueError("--query and --url-env belong together")
        if not self.target and not self.dataset:
            raise ValueError("--target names the column to tell from the others")
        if self.strategy != "ddp":
            raise ValueError("--strategy fsdp shards models far larger than this one; use ddp")
        if self.workers:
            raise ValueError(
                f"--workers is {self.workers}; the whole table is in memory, and there is nothing to load: it must be 0"
            )


def listed(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())


def shape(config: Config, columns: Columns) -> dict[str, Any]:
    """Network's arguments."""
    sizes = [config.bins, config.embedding, *[config.width] * config.depth]
    known = [len(texts) for texts in columns.categories.values()]
    common = {"sizes": sizes, "heads": config.heads, "dropout": config.dropout}
    return {"numeric": len(columns.numeric), "known": known, "labels": len(columns.labels), **common}


# Data


def load(config: Config) -> tuple[pd.DataFrame, str]:
    """The table, and the name of its target."""
    if config.dataset:
        from sklearn import datasets  # half a second, which other tables do not need

        units = {"scaled": False} if config.dataset == "diabetes" else {}
        found = getattr(datasets, "load_" + config.dataset.replace("-", "_"))(as_frame=True, **units)
        frame: pd.DataFrame = found.frame
        if "target_names" in found:
            frame["target"] = [str(found.target_names[label]) for label in frame["target"]]
        return frame, config.target or "target"
    if config.query:
        return table.queried(config.query, config.url_env), config.target
    place = dataset(config.data)
    if place is None:
        raise SystemExit("error: no table: name one with --data, --query or --dataset, or in KATUNA_DATA")
    return table.read(place), config.target


@dataclass(frozen=True)
class Rows:
    """What Columns.encode and Columns.goals make of rows."""

    numbers: Tensor
    codes: Tensor
    goals: Tensor

    @classmethod
    def of(cls, frame: pd.DataFrame, columns: Columns, device: torch.device) -> Rows:
        return cls(*(torch.from_numpy(array).to(device) for array in (*columns.encode(frame), columns.goals(frame))))

    def inputs(self, which: Tensor) -> tuple[Tensor, ...]:
        """What Network takes of some rows."""
        return tuple(given[which] for given in (self.numbers, self.codes) if given.shape[1])


# Model


class Network(nn.Module):
    """Raw numbers (rows, numeric) with NaN and codes (rows, categorical), if there are such columns, to predictions.

    Each number becomes its standardised self, whether it is missing, and how far it is through each bin (missing ones are the median);
    each code an embedding, that of a category without training rows the mean of the others. `heads` networks that share all but a
    scaling of their features and the last layer are trained side by side. In training the result is each head's scores (rows,
    heads, outputs); else the mean prediction: probabilities (rows, labels), or values (rows,) in the target's units (`labels` 0).
    """

    def __init__(
        self, numeric: int, known: Sequence[int], labels: int, *, sizes: Sequence[int], heads: int, dropout: float
    ) -> None:
        """`known` categories of each column; `sizes` are bins, embedding, and the width of each hidden layer."""
        super().__init__()
        self.numeric, self.labels, outputs = numeric, labels, labels or 1
        bins, embedding, *widths = sizes
        features, total = (numeric + len(known)) * embedding, sum(known) + len(known)
        counts = torch.tensor(known, dtype=torch.int64)
        self.median, self.mean, self.scale = (nn.Buffer(torch.ones(numeric)) for _ in range(3))
        self.low, self.span = (nn.Buffer(torch.ones(numeric, bins)) for _ in range(2))
        self.goal_mean, self.goal_scale = nn.Buffer(torch.zeros(())), nn.Buffer(torch.ones(()))
        # Each column has a row of the table for each category, and one for any other.
        self.known, self.first = nn.Buffer(counts), nn.Buffer((counts + 1).cumsum(0) - counts - 1)
        self.column = nn.Buffer(torch.arange(len(known)).repeat_interleave(counts + 1))
        self.shares = nn.Buffer(torch.zeros(len(known), total))
        self.weight = nn.Parameter(torch.randn(numeric, bins + 2, embedding) / math.sqrt(bins + 2))
        self.bias = nn.Parameter(torch.zeros(numeric, embedding))
        self.table = nn.Parameter(torch.randn(total, embedding))
        self.scaling = nn.Parameter(torch.randint(0, 2, (heads, features)).float() * 2 - 1)
        layers = [(nn.Linear(a, b), nn.ReLU(), nn.Dropout(dropout)) for a, b in itertools.pairwise([features, *widths])]
        self.hidden = nn.Sequential(*itertools.chain(*layers))
        self.last = nn.Parameter((2 * torch.rand(heads, widths[-1], outputs) - 1) / math.sqrt(widths[-1]))
        self.offset = nn.Parameter(torch.zeros(heads, outputs))
        for parameter in self.parameters():  # those of no columns get no gradient, for which DDP would wait
            parameter.requires_grad_(parameter.numel() > 0)

    def learn(self, rows: Rows) -> Tensor:
        """Medians, scales, bins and shares of categories, from training rows; returns their goals as `loss_of` takes them."""
        for column, given in enumerate(rows.numbers.double().cpu().numpy().T):
            values = given[~np.isnan(given)] if not np.isnan(given).all() else np.zeros(1)
            self.median[column], self.mean[column], self.scale[column] = np.median(values), values.mean(), values.std() or 1
            edges = np.unique(np.quantile(values, np.linspace(0, 1, self.low.shape[1] + 1)).astype(np.float32))
            self.low[column] = torch.finfo(torch.float32).max  # bins that this column does not have stay at 0
            self.low[column, : len(edges) - 1] = torch.from_numpy(edges[:-1])
            self.span[column, : len(edges) - 1] = torch.from_numpy(np.diff(edges))
        for column, codes in enumerate(rows.codes.T):
            self.shares[column] = torch.bincount(codes + self.first[column], minlength=self.shares.shape[1]) / len(codes)
        if self.labels:
            return rows.goals
        self.goal_mean.copy_(rows.goals.mean())
        self.goal_scale.fill_(rows.goals.std(correction=0).item() or 1)
        return ((rows.goals - self.goal_mean) / self.goal_scale).float()

    def of_numbers(self, numbers: Tensor) -> Tensor:
        missing = numbers.isnan()
        filled = torch.where(missing, self.median, numbers)
        plain = ((filled - self.mean) / self.scale).clamp(-5, 5)
        pieces = ((filled.unsqueeze(2) - self.low) / self.span).clamp(0, 1)
        encoding = torch.cat([plain.unsqueeze(2), missing.unsqueeze(2).to(plain.dtype), pieces], 2)
        return functional.relu(torch.einsum("bnt,nte->bne", encoding, self.weight) + self.bias).flatten(1)

    def of_codes(self, codes: Tensor) -> Tensor:
        mean = (self.shares @ self.table)[self.column]
        table = torch.where(self.shares.sum(0).unsqueeze(1) > 0, self.table, mean)
        return table[self.first + torch.where((codes < 0) | (codes > self.known), self.known, codes)].flatten(1)

    def forward(self, *inputs: Tensor) -> Tensor:
        parts = [self.of_numbers(inputs[0])] if self.numeric else []
        parts += [self.of_codes(inputs[-1])] if len(self.known) else []
        hidden = self.hidden(torch.cat(parts, 1).unsqueeze(1) * self.scaling)
        scores = torch.einsum("bhw,hwo->bho", hidden, self.last) + self.offset
        if self.training:
            return scores
        return scores.softmax(2).mean(1) if self.labels else scores.mean(1).squeeze(1) * self.goal_scale + self.goal_mean


def loss_of(scores: Tensor, goals: Tensor) -> Tensor:
    """The heads' mean negative log-likelihood (goals are labels), or mean squared error in standard deviations."""
    if not goals.is_floating_point():
        return functional.cross_entropy(scores.flatten(0, 1), goals.repeat_interleave(scores.shape[1]))
    return (scores.squeeze(2) - goals.unsqueeze(1)).square().mean()


# Training


class Best:
    """The network of the epoch with the lowest `value`, and for how many epochs there has been none lower."""

    def __init__(self, network: nn.Module) -> None:
        self.network, self.value, self.epoch, self.stale = copy.deepcopy(network), math.inf, 0, 0

    def see(self, network: nn.Module, value: float, epoch: int, here: World) -> None:
        self.stale += 1
        if here.agree(value < self.value):
            self.value, self.epoch, self.stale = value, epoch, 0
            self.network.load_state_dict(network.state_dict())

    def state_dict(self) -> dict[str, Any]:
        value = self.value if self.epoch else None
        return {"network": dict(self.network.state_dict()), "value": value, "epoch": self.epoch, "stale": self.stale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.value = math.inf if state["value"] is None else state["value"]
        self.epoch, self.stale = state["epoch"], state["stale"]


def train(config: Config, here: World, report: Reporter, stop: Stop, columns: Columns, parts: list[Rows]) -> None:
    training, *held = parts
    seed(config.seed)
    plain = Network(**shape(config, columns)).to(here.device)
    goals = plain.learn(training)
    average = AveragedModel(plain, multi_avg_fn=get_ema_multi_avg_fn(config.average))
    best = Best(plain)
    seed(config.seed, here.rank)  # each rank draws its own dropout

    speed = precision(config, here)
    model = wrap(prepared(plain, config, here), here)
    optimizer = torch.optim.AdamW(model.parameters(), config.lr, weight_decay=config.weight_decay)
    order = Order(len(goals), config.batch_size or min(256, max(32, len(goals) // 64)), here, seed=config.seed)
    state = {"model": model, "average": average, "best": best, "optimizer": optimizer, "scaler": speed.scaler, "order": order}
    folder, keep = trial_folder(config.trial_dir, "checkpoints"), config.keep_checkpoints
    data = digest(repr(columns).encode(), *(each for rows in parts for each in (rows.numbers, rows.codes, rows.goals)))
    kept = Checkpoints(folder, here, state, config=config, data=data, keep=keep, asynchronous=config.async_checkpoints)

    step, values = kept.restore()
    total, seen = here.part(values.get("loss", 0.0)), values.get("seen", 0)  # over this epoch: of the loss, and rows
    stop.now(step)
    while order.epoch < config.epochs and best.stale < config.patience and not stop.reason:
        model.train()
        for batch in order.batches():
            total += gradients(config, model, order, speed, training, goals, batch) * (order.whole / here.size)
            speed.step(optimizer, model, config.clip)
            average.update_parameters(plain)
            report.stepped()
            step, seen = step + 1, seen + order.whole
            due = config.checkpoint_every and step % config.checkpoint_every == 0
            if stop.now(step) or due or order.done == order.count:  # the end of an epoch is saved before it is judged
                kept.save(step, loss=here.sum(total).item(), seen=seen)
            if stop:
                break
        if not stop:
            metrics = judged(average.module, held[0], columns, "val")
            report({"epoch": order.epoch, "train-loss": here.sum(total).item() / seen, **metrics})
            best.see(average.module, metrics[DECIDES[columns.task]], order.epoch, here)
            total, seen = torch.zeros_like(total), 0
            kept.save(step, loss=0.0, seen=0)
            stop.told()
    kept.close()
    if stop.told():  # several ranks answer one call late: to a signal that came while the last epoch was judged
        return
    final = best.network if best.epoch else average.module
    figures = judged(final, held[0], columns, "val") | judged(final, held[1], columns, "test")
    report({"best-epoch": best.epoch, **figures}, step=order.epoch + 1)
    leave(config, here, final, training, columns, figures)
    stop.finished = True


def gradients(
    config: Config, model: nn.Module, order: Order, speed: Precision, rows: Rows, goals: Tensor, batch: Tensor
) -> Tensor:
    """Those of a batch, in as many passes as asked; returns its mean loss as `Order.share` counts this rank's part."""
    total, passes = torch.zeros((), device=goals.device), order.passes(config.accumulate)
    for number, part in enumerate(batch.to(goals.device).tensor_split(passes), 1):
        with syncing(model, last=number == passes):
            with speed.autocast():
                loss = loss_of(model(*rows.inputs(part)), goals[part]) * order.share(part)
            speed.backward(loss)
        total += loss.detach()
    return total


@torch.no_grad()
def judged(network: nn.Module, rows: Rows, columns: Columns, part: str) -> dict[str, float]:
    """The metrics of `part`; those that these rows do not define (an area under the curve of one class alone) are left out."""
    if not len(rows.goals):
        return {}
    network.eval()
    scores = torch.cat([network(*rows.inputs(some)) for some in torch.arange(len(rows.goals)).split(4096)])
    found, true = scores.double().cpu().numpy(), rows.goals.cpu().numpy()
    if not np.isfinite(found).all():
        return {DECIDES[columns.task]: math.nan}
    values = metrics_of_classes(found, true) if columns.labels else metrics_of_values(found, true)
    return {f"{part}-{name}": float(value) for name, value in values.items()}


def metrics_of_values(found: table.Array, true: table.Array) -> dict[str, float]:
    errors, spread = found - true, np.square(true - true.mean(dtype=np.float64)).mean()
    rmse = np.sqrt(np.square(errors).mean())
    return {"rmse": rmse, "mae": np.abs(errors).mean(), **({"r2": 1 - rmse**2 / spread} if spread else {})}


def metrics_of_classes(found: table.Array, true: table.Array) -> dict[str, float]:
    """`auc` of more than two classes is the mean over each against the rest."""
    hits, labels = found.argmax(1) == true, np.unique(true)
    curves = ([] if len(labels) < 2 else [1]) if found.shape[1] == 2 else [label for label in labels if len(labels) > 1]
    areas = [area(true == label, found[:, label]) for label in curves]
    return {
        "loss": -np.log(found[np.arange(len(true)), true].clip(1e-15)).mean(),
        "accuracy": hits.mean(),
        "balanced-accuracy": np.mean([hits[true == label].mean() for label in labels]),
        **({"auc": np.mean(areas)} if areas else {}),
    }


def area(true: table.Array, scores: table.Array) -> float:
    """Under the ROC curve. To import scikit-learn's takes seconds, and draws from Python's random state."""
    ranks, count = pd.Series(scores).rank().to_numpy(), int(true.sum())
    return float((ranks[true].sum() - count * (count + 1) / 2) / (count * (len(true) - count)))


def leave(config: Config, here: World, network: nn.Module, rows: Rows, columns: Columns, figures: dict[str, float]) -> None:
    place = trial_folder(config.trial_dir, "export")
    if not (config.export and here.is_main and place):
        return
    from katuna.runtime.export import Field, Schema, export

    inputs = (
        Field("numbers", "float", (len(columns.numeric),)),
        Field("codes", "int64", (len(columns.categories),), doc="-1: not in the list"),
    )
    chances, value = Field("probabilities", "float", (len(columns.labels),)), Field("value", "float", doc="in the target's units")
    schema = Schema(
        task=columns.task,
        inputs=tuple(field for field in inputs if field.shape[0]),
        outputs=(chances if columns.labels else value,),
        labels=columns.labels,
        columns=columns.fields(),
        extra={"target": columns.target},
    )
    arguments = {"model_arguments": shape(config, columns), "trainer": Path(__file__).stem}
    example = rows.inputs(torch.arange(min(64, len(rows.goals)), device=here.device))
    export(place, network, example, config=config, schema=schema, metrics=figures, **arguments)  # type: ignore[arg-type]


def main() -> None:
    config = parse(Config, doc=__doc__ or "")
    frame, target = load(config)
    roles = Roles(target, config.task, listed(config.categorical), listed(config.drop), config.split_column)
    columns, parts = table.divided(frame, roles, val_share=config.val_share, test_share=config.test_share, seed=config.split_seed)
    with world(config.device) as here, Reporter(config, here, METRICS[columns.task]) as report, Stop(config, here) as stop:
        train(config, here, report, stop, columns, [Rows.of(part, columns, here.device) for part in parts])


if __name__ == "__main__":
    main()
