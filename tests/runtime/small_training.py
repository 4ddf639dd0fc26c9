"""A training small enough to be killed often, and a server of it: torch is imported once, and each start is a fork.

Each line on stdin is a JSON object {folder, processes, strategy, asynchronous, fuse, port}; it trains 24 steps with everything that
has a state, and for each line one is printed: {codes, errors, told}. `told`, rank 0's, are digests of weights, optimizer, scheduler,
position and each rank's random states. `fuse` is `RANK:N`: that rank is killed by SIGKILL in the Nth of the moments that count: after
a step, and before each write, fsync, making and renaming of what a checkpoint lies in.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

from katuna.runtime import randomness
from katuna.runtime.checkpoint import Checkpoints
from katuna.runtime.exchange import to_main
from katuna.runtime.loader import Order
from katuna.runtime.packing import Packer
from katuna.runtime.parallel import wrap
from katuna.runtime.world import World, world

STEPS, EVERY = 24, 3


class Fuse:
    """Burns by one with each `moment`, in the process of the rank it is for."""

    def __init__(self, text: str, rank: int) -> None:
        whose, _, left = text.partition(":")
        self.left = int(left) if text and int(whose) == rank else 0

    def moment(self) -> None:
        if self.left == 1:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        self.left -= 1

    def before(self, owner: Any, name: str) -> None:
        real: Callable[..., Any] = getattr(owner, name)

        def wrapped(*arguments: Any, **named: Any) -> Any:
            self.moment()
            return real(*arguments, **named)

        setattr(owner, name, wrapped)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 4))


def train(folder: Path, strategy: str, asynchronous: bool, fuse: str, here: World) -> None:
    burning = Fuse(fuse, here.rank)
    for owner, name in ((os, "fsync"), (Path, "rename"), (Path, "mkdir"), (Path, "write_text"), (safetensors.torch, "save_file")):
        burning.before(owner, name)
    torch.manual_seed(here.rank)
    random.seed(here.rank)
    np.random.seed(here.rank)
    rows = torch.randn(52, 6, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(0, 4, (52,), generator=torch.Generator().manual_seed(2))
    model = wrap(network(), here, strategy)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=STEPS + 1)
    order = Order(len(rows), 8, here, seed=3)
    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "order": order}
    with Checkpoints(folder, here, state, asynchronous=asynchronous) as checkpoints:
        step, values = checkpoints.restore()
        best = values.get("best", float("inf"))
        while step < STEPS:
            for batch in order.batches():
                noise = random.random() + float(np.random.rand()) + torch.randn(len(batch), 6)
                loss = nn.functional.cross_entropy(model(rows[batch] + 0.1 * noise), labels[batch])
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
                step += 1
                best = min(best, float(here.mean(loss)))
                burning.moment()
                if step % EVERY == 0:
                    checkpoints.save(step, best=best)
                if step == STEPS:
                    break
    tell(state, best, here)


def tell(state: dict[str, Any], best: float, here: World) -> None:
    told = {name: digest(dict(each.state_dict())) for name, each in state.items()}
    drawn = to_main(digest(randomness.captured(here.device)).encode(), here)
    if here.is_main:
        print(json.dumps(told | {"best": best, "random": [each.decode() for each in drawn]}))


def digest(tree: dict[str, Any]) -> str:
    packer = Packer()
    form = packer.form(tree, "")
    return hashlib.sha256(json.dumps(form).encode() + safetensors.torch.save(packer.tensors)).hexdigest()


def serve() -> None:
    import torch.distributed.fsdp

    torch.set_num_threads(1)
    assert torch.distributed.fsdp
    torch.optim.AdamW([nn.Parameter(torch.ones(1))])
    for line in sys.stdin:
        task = json.loads(line)
        with TemporaryDirectory() as outputs:
            children = [born(task, rank, Path(outputs)) for rank in range(task["processes"])]
            codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
            said = [[Path(outputs, f"{rank}.{stream}").read_text() for rank in range(len(codes))] for stream in ("out", "err")]
        print(json.dumps({"codes": codes, "errors": said[1], "told": json.loads(said[0][0] or "{}")}), flush=True)


def born(task: dict[str, Any], rank: int, outputs: Path) -> int:
    """A child that trains as `rank`, and its pid."""
    child = os.fork()
    if child:
        return child
    signal.alarm(100)
    for descriptor, stream in ((1, "out"), (2, "err")):
        os.dup2(os.open(outputs / f"{rank}.{stream}", os.O_WRONLY | os.O_CREAT, 0o644), descriptor)
    if task["processes"] > 1:
        os.environ.update(
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(task["port"]), WORLD_SIZE=str(task["processes"]), RANK=str(rank)
        )
    code = 1
    try:
        with world("cpu", timeout_s=60) as place:
            train(Path(task["folder"]), task["strategy"], task["asynchronous"], task["fuse"], place)
        code = 0
    except SystemExit as error:
        print(error, file=sys.stderr)
    except BaseException:  # noqa: BLE001  # whatever it is: the child must not go on as the server
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
