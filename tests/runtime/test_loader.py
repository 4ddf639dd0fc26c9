"""Which examples a rank sees, and a loader that works ahead without moving the position."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import ranks
from katuna.runtime.loader import Order, fed
from katuna.runtime.world import World


def place(rank: int = 0, size: int = 1) -> World:
    return World(rank, rank, size, torch.device("cpu"), "")


def epoch(order: Order) -> list[list[int]]:
    return [batch.tolist() for batch in order.batches()]


@given(count=st.integers(1, 60), batch=st.integers(1, 20), size=st.integers(1, 5), seed=st.integers(0, 2**40))
def test_ranks_share_the_batches_of_one_process(count: int, batch: int, size: int, seed: int) -> None:
    alone = Order(count, batch, place(), seed=seed)
    ranks = [Order(count, batch, place(rank, size), seed=seed) for rank in range(size)]
    for whole, *parts in zip(alone.batches(), *(rank.batches() for rank in ranks), strict=True):
        shares = [rank.share(part) for rank, part in zip(ranks, parts, strict=True)]
        counted = [each for part, share in zip(parts, shares, strict=True) if share for each in part.tolist()]
        assert sorted(counted) == sorted(whole.tolist())
        assert all(len(part) >= 1 for part in parts)
        assert {rank.whole for rank in ranks} == {len(whole)}
        values = torch.arange(count, dtype=torch.float64)
        mean = sum(share * values[part].mean() for part, share in zip(parts, shares, strict=True)) / size
        assert mean == pytest.approx(values[whole].mean().item())
        passes = {rank.passes(4) for rank in ranks}
        assert len(passes) == 1
        assert all(len(piece) for part in parts for piece in part.tensor_split(min(passes)))
    assert [order.epoch for order in (alone, *ranks)] == [1] * (size + 1)


def test_an_epoch_sees_each_example_once_and_no_two_epochs_are_alike() -> None:
    order = Order(50, 8, place(), seed=3)
    epochs = [epoch(order) for _ in range(3)]
    assert len(order) == len(epochs[0]) == 7
    assert all(sorted(index for batch in each for index in batch) == list(range(50)) for each in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != epoch(Order(50, 8, place(), seed=4))
    assert epoch(Order(5, 2, place(), seed=3, shuffle=False)) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("taken", range(1, 15))
@pytest.mark.parametrize("ahead", [0, 3])
def test_a_restored_order_goes_on_behind_what_was_handed_out(taken: int, ahead: int) -> None:
    def seen(order: Order, most: int) -> list[Tensor]:
        found: list[Tensor] = []
        while order.epoch < 2 and len(found) < most:
            for batch in fed(order.batches(), lambda which: which, place(), ahead=ahead):
                found.append(batch)
                if len(found) == most:
                    break
        return found

    whole = seen(Order(50, 8, place(), seed=0), 99)
    order = Order(50, 8, place(), seed=0)
    before = seen(order, taken)
    assert order.epoch * 7 + order.state_dict()["taken"] == taken
    assert order.done == min(order.state_dict()["taken"] * 8, 50)
    again = Order(50, 8, place(), seed=0)
    again.load_state_dict(order.state_dict())
    after = seen(again, 99)
    assert [batch.tolist() for batch in before + after] == [batch.tolist() for batch in whole]


def test_a_thread_loads_ahead_and_stops_with_the_loop() -> None:
    loaded: list[int] = []
    both = threading.Event()

    def load(batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loaded.append(int(batch[0]))
        if len(loaded) == 3:
            both.set()
        return batch, {"twice": 2 * batch}

    order = Order(40, 4, place(), seed=0, shuffle=False)
    for batch, more in fed(order.batches(), load, place(), ahead=2):
        assert both.wait(20), "nothing was loaded ahead"
        assert batch.tolist() == [0, 1, 2, 3]
        assert more["twice"].tolist() == [0, 2, 4, 6]
        break
    assert order.state_dict() == {"epoch": 0, "taken": 1}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("katuna-load")]
    assert len(loaded) <= 4


def test_an_error_while_loading_is_raised_in_the_loop() -> None:
    def load(batch: Tensor) -> Tensor:
        raise OSError("picture 7 is torn")

    with pytest.raises(OSError, match="picture 7"):
        list(fed(Order(4, 2, place(), seed=0).batches(), load, place()))


def test_processes_load_the_same_batches() -> None:
    order, other = Order(10, 4, place(), seed=1), Order(10, 4, place(), seed=1)
    found = [batch.tolist() for batch in fed(order.batches(), lambda which: which * 10, place(), workers=1)]
    assert found == [[10 * each for each in batch] for batch in epoch(other)]
    assert order.epoch == 1


def test_other_batches_than_an_orders_are_fed_too() -> None:
    assert [int(each) for each in fed([torch.tensor(1), torch.tensor(2)], lambda which: which + 1, place())] == [2, 3]


def test_an_order_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="0 examples"):
        Order(0, 2, place(), seed=0)


def test_processes_leave_torchs_random_state_alone() -> None:
    before = torch.get_rng_state()
    list(fed(Order(10, 4, place(), seed=1).batches(), lambda which: which, place(), workers=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_processes_that_load_are_deaf_to_sigterm() -> None:
    """It is what a launcher sends to the whole group: the training saves, and ends in its own time."""
    loaded = fed(Order(40, 2, place(), seed=0).batches(), lambda _: torch.tensor(os.getpid()), place(), workers=1)
    pid = int(next(loaded))
    assert pid != os.getpid()
    os.kill(pid, signal.SIGTERM)
    assert len(list(loaded)) == 19


def test_a_killed_process_is_told_in_the_loop_and_nowhere_else() -> None:
    """Where a trainer is when it happens, in its step or in an evaluation, it goes on."""
    loaded = fed(Order(40, 2, place(), seed=0).batches(), lambda _: torch.tensor(os.getpid()), place(), workers=1)
    os.kill(int(next(loaded)), signal.SIGKILL)
    until = time.monotonic() + 1
    while time.monotonic() < until:
        pass
    says = r"^error: a process that loads data is gone: SIGKILL ended it; .*; load with fewer of them, --workers 0 has none$"
    with pytest.raises(SystemExit, match=says):
        list(loaded)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_ends_the_program_while_loading_ends_it(workers: int) -> None:
    def load(batch: Tensor) -> Tensor:
        raise SystemExit("error: picture 7 is torn")

    with pytest.raises(SystemExit, match=r"^error: picture 7 is torn$"):
        list(fed(Order(4, 2, place(), seed=0).batches(), load, place(), workers=workers))


def program(load: str, loop: str) -> subprocess.Popen[str]:
    """A training of 50 batches by two processes that load; `load` and `loop` are what stands in those two places."""
    code = f"""
import os, sys, time, torch
from katuna.runtime.loader import Order, fed
from katuna.runtime.world import World
here = World(0, 0, 1, torch.device("cpu"), "")
seen = []
def load(which):
    {load}
def train():
    for step, batch in enumerate(fed(Order(100, 2, here, seed=0).batches(), load, here, workers=2)):
        {loop}
train()
"""
    argv = [sys.executable, "-c", code]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ranks.environment())


@pytest.mark.parametrize(
    ("load", "loop", "says"),
    [
        (
            "raise RuntimeError('Cannot re-initialize CUDA in forked subprocess.\\nTo use it')",
            "pass",
            "error: a process that loads data failed: RuntimeError: Cannot re-initialize CUDA in forked subprocess. To use it",
        ),
        ("if min(which) == 0: raise OSError(5, 'Input/output error')", "pass", "failed: OSError: [Errno 5] Input/output error"),
        ("return lambda: 0", "pass", "error: a process that loads data failed: "),
        ("return which", "if step == 2: raise ValueError('of the step')", "ValueError: of the step"),
        (
            "seen.append(1); time.sleep(600 * (len(seen) > 1)); return which",
            "raise ValueError('of the step')",
            "ValueError: of the step",
        ),
    ],
)
def test_an_exception_ends_a_training_whose_processes_load(load: str, loop: str, says: str) -> None:
    """For ever it did not: the interpreter waited at its end for processes that are deaf to what should end them."""
    with program(load, loop) as training:
        try:
            code, out, err = ranks.ended(training, timeout=60)
        finally:
            training.kill()
    assert (code, out) == (1, "")
    assert says in err.splitlines()[-1]
    assert err.count(says) == 1


def test_processes_that_load_end_with_a_training_that_is_killed() -> None:
    with program("return torch.tensor(os.getpid())", "print(int(batch), flush=True); time.sleep(step * 600)") as training:
        assert training.stdout is not None
        pids = [int(training.stdout.readline()) for _ in range(2)]
        training.kill()
        training.stdout.read()  # which ends when nobody has the other end any more
    assert len({*pids, training.pid}) == 3


@dataclass
class Held:
    in_memory: bool

    def load(self, which: Tensor) -> Tensor:
        return torch.tensor(os.getpid())


@pytest.mark.parametrize("as_method", [False, True])
def test_data_in_memory_is_loaded_by_the_training_itself(as_method: bool) -> None:
    """A forked process cannot read what lies on a GPU."""

    def by(held: Held) -> int:
        def load(which: Tensor) -> Tensor:
            return held.load(which)

        batches = Order(4, 2, place(), seed=0).batches()
        return int(next(fed(batches, held.load if as_method else load, place(), workers=1)))

    assert by(Held(in_memory=True)) == os.getpid()
    assert by(Held(in_memory=False)) != os.getpid()
