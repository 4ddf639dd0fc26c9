"""One rank that does what its first argument says. Run by test_world.py."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

import katuna.runtime.world
from katuna.runtime import leaving
from katuna.runtime.arguments import Common
from katuna.runtime.parallel import clip, weights, wrap
from katuna.runtime.stop import Stop
from katuna.runtime.world import World, world


def collectives(here: World) -> None:
    value = torch.tensor([1.0, 10.0]) * (here.rank + 1)
    print(here.rank, here.size, here.local_rank, here.backend, here.is_main)
    print(here.sum(value).tolist(), here.mean(value).tolist(), value.tolist())
    print(here.agree(False), here.agree(here.rank == 1), here.agree(True))
    here.barrier()
    agree_to_stop(here)


def agree_to_stop(here: World) -> None:
    """Rank 1 alone is told to stop; both must in the same step."""
    with Stop(Common(), here) as stop:
        step = 0
        while not stop.now(step):
            step += 1
            if (here.rank, step) == (1, 5):
                os.kill(os.getpid(), signal.SIGTERM)
        print(step, stop.reason, flush=True)


def leave_an_evaluation(here: World) -> None:
    """Rank 1 alone is told, after its third batch."""
    with Stop(Common(), here) as stop:
        batches = 0
        while not stop.told():
            batches += 1
            if (here.rank, batches) == (1, 3):
                os.kill(os.getpid(), signal.SIGTERM)
        print(batches, stop.reason, flush=True)


def hang(here: World) -> None:
    here.barrier()
    if here.rank == 1:
        time.sleep(60)
    here.sum(torch.ones(1))


def lose_a_peer(here: World) -> None:
    for step in range(10**9):
        here.sum(torch.ones(10))
        if (here.rank, step) == (1, 20):
            os.kill(os.getpid(), signal.SIGKILL)


def train(here: World) -> None:
    model = wrap(torch.nn.Linear(3, 1), here)
    model(torch.ones(2, 3)).sum().backward()


def train_sharded(here: World) -> None:
    model = wrap(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1)), here, "fsdp", (torch.nn.Linear,))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    clip(model, 1.0)
    optimizer.step()
    weights(model)


def fail_where_destroying_waits(here: World) -> None:
    """As it does under NCCL, for what peers have under way."""
    dist.destroy_process_group = lambda: time.sleep(600)
    fail(here)


def fail_where_the_end_waits(here: World) -> None:
    leaving.GRACE_S = 2
    atexit.register(time.sleep, 600)
    fail(here)


def fail(here: World) -> None:
    here.barrier()
    if here.rank == 1:
        raise ValueError("of the trainer's own")
    here.sum(torch.ones(1))


if __name__ == "__main__":
    if sys.argv[1] == "of_other_kinds" and os.environ["RANK"] == "1":
        katuna.runtime.world.device_for = lambda _wanted, _place: torch.device("cuda", 0)
    with world("cpu", timeout_s=float(sys.argv[2]), silence_s=float(sys.argv[3]) if sys.argv[3:] else 1800) as found:
        globals()[sys.argv[1]](found)
    assert not dist.is_initialized()
    if sys.argv[1].startswith("train") and sys.platform == "linux":
        print(*sorted(name.read_text().strip() for name in Path("/proc/self/task").glob("*/comm") if "gloo" in name.read_text()))
