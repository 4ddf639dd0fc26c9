"""The promises of a Store, as tests: mix into a class that has `make_store()` returning the same store each time it is reopened."""

from __future__ import annotations

from factories import a_life, opened
from katuna.metric_line import Report
from katuna.search.contracts import Store
from katuna.search.trials import Ended, Reported, Resumed, Stopping


class StoreContract:
    def make_store(self) -> Store:
        raise NotImplementedError

    def test_new_store_replays_nothing(self) -> None:
        assert list(self.make_store().replay()) == []

    def test_replays_what_was_appended_in_order(self) -> None:
        store = self.make_store()
        events = [
            opened(),
            *a_life(0, {"lr": "1e-05", "optimizer": "adam"}, 0.5),
            *a_life(1, {"lr": "0.1", "optimizer": 'a "quoted"\nñ\x00 word'}, None),
            Reported(3.0, 1, (Report("loss", "1.50", 1_764_000_000_000_001), Report("loss", "x"))),
            Stopping(4.0, 1, "ExperimentGoalReached"),
            Resumed(5.0, (0, 1)),
            Ended(6.0, True, "ExperimentGoalReached", "done"),
        ]
        for event in events:
            store.append(event)
        assert list(store.replay()) == events

    def test_replay_can_be_repeated_and_appending_goes_on(self) -> None:
        store = self.make_store()
        store.append(opened())
        assert len(list(store.replay())) == 1
        store.append(Ended(1.0, True, "r", "m"))
        assert len(list(store.replay())) == 2

    def test_sync_changes_nothing_that_can_be_read(self) -> None:
        store = self.make_store()
        store.append(opened())
        for event in a_life(0, {"lr": "0.1"}, 0.5):
            store.append(event)
        before = list(store.replay())
        store.sync()
        assert list(store.replay()) == before
