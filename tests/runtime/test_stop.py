"""Limits and SIGTERM in one process; several agree in tests/runtime/test_world.py and tests/trainers."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from katuna.runtime.arguments import Common
from katuna.runtime.stop import Stop
from katuna.runtime.world import World

ALONE = World(0, 0, 1, torch.device("cpu"), "")


def test_without_limits_it_goes_on() -> None:
    with Stop(Common(), ALONE) as stop:
        assert not any(stop.now(step) for step in range(100))
    assert (stop.reason, bool(stop)) == ("", False)


def test_max_steps() -> None:
    with Stop(Common(max_steps=3), ALONE) as stop:
        assert [stop.now(step) for step in (1, 2, 3, 4)] == [False, False, True, True]
    assert stop.reason == "max-steps"


def test_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("katuna.runtime.stop.time.monotonic", lambda: now[0])
    with Stop(Common(time_limit=5), ALONE) as stop:
        now[0] = 104.9
        assert not stop.now(1)
        now[0] = 105.0
        assert stop.now(2)
    assert stop.reason == "time-limit"


def stopped_by_a_signal(error: type[Exception] | None) -> None:
    with Stop(Common(), ALONE) as stop:
        assert not stop.now(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.now(2)
        assert stop.reason == "SIGTERM"
        if error is not None:
            raise error


def test_sigterm_is_heard_and_ends_the_block_with_143() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        stopped_by_a_signal(None)
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_error_in_the_block_stays_what_it_is() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyError):
        stopped_by_a_signal(KeyError)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_time_limit_waits_for_the_first_step() -> None:
    with Stop(Common(time_limit=1e-9), ALONE) as stop:
        assert [stop.now(7), stop.now(7), stop.now(8)] == [False, False, True]


def test_between_batches_of_an_evaluation_only_sigterm_counts() -> None:
    with Stop(Common(time_limit=1e-9, max_steps=1), ALONE) as stop:
        assert not stop.told()
        os.kill(os.getpid(), signal.SIGTERM)
        assert (stop.told(), stop.reason) == (True, "SIGTERM")
        stop.finished = True


@pytest.mark.parametrize("finished", [False, True])
def test_a_signal_after_the_last_question_counts_unless_all_is_done(finished: bool) -> None:
    codes = []
    try:
        with Stop(Common(), ALONE) as stop:
            assert not stop.now(1)
            os.kill(os.getpid(), signal.SIGTERM)
            stop.finished = finished
    except SystemExit as error:
        codes.append(error.code)
    assert codes == ([] if finished else [143])
