"""Trains a small model in every way that ranks can share it, and prints the weights of each as JSON. Run by test_parallel.py."""

from __future__ import annotations

import json
import sys

import torch
from torch import nn

from katuna.runtime.arguments import Common
from katuna.runtime.loader import Order, fed
from katuna.runtime.parallel import syncing, unwrap, weights, wrap
from katuna.runtime.precision import precision, prepared
from katuna.runtime.world import World, world

WAYS = [(strategy, accumulate, clip) for strategy in ("ddp", "fsdp") for accumulate, clip in ((1, 0.0), (3, 0.5))]


def train(strategy: str, accumulate: int, clip: float, here: World) -> dict[str, list[float]]:
    torch.manual_seed(0)
    inputs, labels = torch.randn(45, 6), torch.randint(0, 3, (45,))
    plain = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Sequential(nn.Linear(8, 8), nn.Tanh()), nn.Linear(8, 3))
    speed = precision(Common(), here)
    model = wrap(prepared(plain, Common(), here), here, strategy, (nn.Sequential,))
    assert unwrap(model) is plain
    optimizer = torch.optim.SGD(model.parameters(), 0.3, momentum=0.9)
    order = Order(45, 11, here, seed=1)  # its last batch has one example
    norms = []
    while order.epoch < 3:
        for x, y in fed(order.batches(), lambda which: (inputs[which], labels[which]), here):
            passes = order.passes(accumulate)
            for number, (some, truth) in enumerate(zip(x.tensor_split(passes), y.tensor_split(passes), strict=True), 1):
                with syncing(model, last=number == passes):
                    speed.backward(nn.functional.cross_entropy(model(some), truth) * order.share(truth))
            norms.append(speed.step(optimizer, model, clip).item())
    return {"norms": norms if clip else [], **{name: tensor.flatten().tolist() for name, tensor in weights(model).items()}}


if __name__ == "__main__":
    with world("cpu", timeout_s=60) as everyone:
        found = [train(*way, everyone) for way in WAYS]
        if everyone.is_main:
            json.dump(found, sys.stdout)
