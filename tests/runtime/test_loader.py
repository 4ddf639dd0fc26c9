"""Which examples a rank sees, and a loader that works ahead without moving the position."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_processes_that_load(number: int) -> None:
    """SIGTERM is what a launcher sends to the whole group: the training saves, and ends in its own time."""
    loaded = fed(Order(40, 2, place(), seed=0).batches(), lambda _: torch.tensor(os.getpid()), place(), workers=1)
    pid = int(next(loaded))
    assert pid != os.getpid()
    os.kill(pid, number)
    if number == signal.SIGTERM:
        assert len(list(loaded)) == 19
        return
    with pytest.raises(SystemExit, match=r"^error: a process that loads data is gone: DataLoader worker.* --workers 0 has none$"):
        list(loaded)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_ends_the_program_while_loading_ends_it(workers: int) -> None:
    def load(batch: Tensor) -> Tensor:
        raise SystemExit("error: picture 7 is torn")

    with pytest.raises(SystemExit, match=r"^error: picture 7 is torn$"):
        list(fed(Order(4, 2, place(), seed=0).batches(), load, place(), workers=workers))
