"""The promises of a Stopper, as tests: mix into a class that has `make_stopper(objective)`, a fresh one at each call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from types import MappingProxyType

import pytest

from factories import make_objective
from katuna.manifest.experiment import Objective, ObjectiveType
from katuna.metric_line import Report
from katuna.search.contracts import Stopper
from katuna.search.trials import EARLY_STOPPED, Asked, Event, Exited, Reported, Search, Started, Stopping, TrialEvent

Series = Sequence[float]
MAXIMIZE, MINIMIZE = make_objective(), make_objective(type=ObjectiveType.MINIMIZE)


def curves(trials: int, steps: int = 12, seed: int = 3) -> list[list[float]]:
    """Values that mostly grow, each trial towards a limit of its own."""
    random = Random(seed)
    limits = [random.random() for _ in range(trials)]
    return [[limit * (1 - 0.7**step) + 0.05 * random.random() for step in range(1, steps + 1)] for limit in limits]


class Play:
    """A search of given curves, step by step: `events` is its journal, `decisions` are (trial, step) of each True."""

    def __init__(self, stopper: Stopper, objective: Objective, series: Sequence[Series], parallel: int = 1) -> None:
        self.stopper, self.search = stopper, Search(objective)
        self.events: list[Event] = []
        self.decisions: list[tuple[int, int]] = []
        self._series, waiting, running = series, list(range(len(series))), dict[int, int]()
        while waiting or running:
            while waiting and len(running) < parallel:
                running[self._begin(waiting.pop(0))] = 0
            for number in list(running):
                running[number] += 1
                if self._step(number, running[number]):
                    del running[number]

    def _begin(self, number: int) -> int:
        self._happen(Asked(0.0, number, f"t-{number}", MappingProxyType({}), MappingProxyType({}), self.stopper.rules()))
        self._happen(Started(0.0, number, 1, {}))
        return number

    def _step(self, number: int, step: int) -> bool:
        """Whether the trial is over after it."""
        value = self._series[number][step - 1]
        stop = self._happen(Reported(0.0, number, (Report("accuracy", repr(value)),)))
        if stop:
            self.decisions.append((number, step))
            self._happen(Stopping(0.0, number, EARLY_STOPPED))
        if stop or step == len(self._series[number]):
            self._happen(Exited(0.0, number, 143 if stop else 0, "Stopped" if stop else "Completed"))
            return True
        return False

    def _happen(self, event: TrialEvent) -> bool:
        self.events.append(event)
        self.search.apply(event)
        return self.stopper.see(event, self.search.trials[event.number])


def show(stopper: Stopper, events: Iterable[Event], objective: Objective) -> Stopper:
    """The stopper after it has seen a journal; what it says to it is no decision any more."""
    search = Search(objective)
    for event in events:
        search.apply(event)
        if isinstance(event, TrialEvent):
            stopper.see(event, search.trials[event.number])
    return stopper


class StopperContract:
    def make_stopper(self, objective: Objective) -> Stopper:
        raise NotImplementedError

    def play(self, series: Sequence[Series], objective: Objective = MAXIMIZE, parallel: int = 1) -> Play:
        return Play(self.make_stopper(objective), objective, series, parallel)

    def test_it_stops_some_and_not_all(self) -> None:
        stopped = {number for number, _ in self.play(curves(30)).decisions}
        assert 0 < len(stopped) < 30

    def test_the_best_curve_is_never_stopped(self) -> None:
        series = curves(30)
        series.insert(17, [10.0] * 12)
        assert 17 not in {number for number, _ in self.play(series).decisions}

    def test_an_attempt_is_stopped_once(self) -> None:
        """Also when reports come after the decision and before it is journalled, all in one event."""
        search = self.play(curves(30)).search
        stopper = show(self.make_stopper(MAXIMIZE), self.play(curves(30)).events, MAXIMIZE)
        asked = Asked(0.0, 30, "t", MappingProxyType({}), MappingProxyType({}), stopper.rules())
        bad = [Reported(0.0, 30, (Report("accuracy", "-9"),)) for _ in range(40)]
        answers = []
        for event in (asked, Started(0.0, 30, 1, {}), *bad):
            search.apply(event)
            answers.append(stopper.see(event, search.trials[30]))
        assert answers.count(True) == 1

    def test_a_new_attempt_can_be_stopped_again(self) -> None:
        stopper = show(self.make_stopper(MAXIMIZE), self.play(curves(30)).events, MAXIMIZE)
        search = self.play(curves(30)).search
        asked = Asked(0.0, 30, "t", MappingProxyType({}), MappingProxyType({}), stopper.rules())
        search.apply(asked)
        stopper.see(asked, search.trials[30])
        steps = []
        for attempt in (1, 2):
            started = Started(0.0, 30, attempt, {})
            search.apply(started)
            stopper.see(started, search.trials[30])
            for step in range(1, 41):
                event = Reported(0.0, 30, (Report("accuracy", "-9"),))
                if stopper.see(event, search.trials[30]):
                    steps.append(step)
        assert len(steps) == 2
        assert steps[0] == steps[1], "its first attempt counts for nothing"

    def test_shown_a_journal_again_it_decides_the_same(self) -> None:
        """Cut at every event: whoever has seen the same answers the same from there on."""
        for parallel in (1, 3):
            whole = self.play(curves(14), parallel=parallel)
            for cut in range(0, len(whole.events), 7):
                again = show(self.make_stopper(MAXIMIZE), whole.events[:cut], MAXIMIZE)
                search = Search(MAXIMIZE)
                for event in whole.events[:cut]:
                    search.apply(event)
                for index, event in enumerate(whole.events[cut:], cut):
                    if isinstance(event, Asked):
                        assert again.rules() == event.rules
                    search.apply(event)
                    stop = isinstance(event, TrialEvent) and again.see(event, search.trials[event.number])
                    following = whole.events[index + 1] if index + 1 < len(whole.events) else None
                    assert stop == isinstance(following, Stopping), f"cut at {cut}, event {index}"

    def test_what_a_trial_that_begins_again_reported_is_forgotten(self) -> None:
        series = curves(14)
        whole = self.play(series)
        last = next(index for index, event in enumerate(whole.events) if isinstance(event, Asked) and event.number == 13)
        fresh = show(self.make_stopper(MAXIMIZE), whole.events[:last], MAXIMIZE)
        other = show(self.make_stopper(MAXIMIZE), whole.events[: last + 4], MAXIMIZE)
        other.forget(13)
        other.forget(99)
        more = [Report("accuracy", repr(value)) for value in (0.3, 0.31, 0.5, 0.2, 0.1, 0.1)]
        answers = []
        for stopper in (fresh, other):
            search = Search(MAXIMIZE)
            asked = whole.events[last]
            search.apply(asked)
            steps = []
            for event in (Started(0.0, 13, 2, {}), *(Reported(0.0, 13, (report,)) for report in more)):
                search.apply(event)
                steps.append(stopper.see(event, search.trials[13]))
            answers.append(steps)
        assert answers[0] == answers[1]

    def test_a_trial_is_not_compared_with_its_own_earlier_attempt(self) -> None:
        stopper, search = self.make_stopper(MAXIMIZE), Search(MAXIMIZE)
        asked = Asked(0.0, 0, "t", MappingProxyType({}), MappingProxyType({}), stopper.rules())
        search.apply(asked)
        for attempt, value in enumerate(("0.9", "0.8", "0.7", "0.6", "0.5", "0.4"), 1):
            for event in (Started(0.0, 0, attempt, {}), *[Reported(0.0, 0, (Report("accuracy", value),))] * 12):
                search.apply(event)
                assert not stopper.see(event, search.trials[0]), "there is no other trial"

    @pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e400"])
    @pytest.mark.parametrize("objective", [MAXIMIZE, MINIMIZE])
    def test_a_trial_that_reports_no_number_at_all_is_stopped(self, objective: Objective, text: str) -> None:
        assert self.stops_after(objective, [text] * 40) == 1

    def test_a_trial_that_diverges_is_stopped_where_the_last_report_counts(self) -> None:
        """Its values were good before; where the best report counts, they still are."""
        texts = ["9", *["nan"] * 39]
        assert self.stops_after(make_objective(strategies={"accuracy": "latest"}), texts) == 1
        assert self.stops_after(MAXIMIZE, texts) == 0

    def stops_after(self, objective: Objective, texts: Sequence[str]) -> int:
        """How often a trial that reports so is told to stop, after thirty others of numbers."""
        before = self.play(curves(30), objective)
        stopper, search = show(self.make_stopper(objective), before.events, objective), before.search
        asked = Asked(0.0, 30, "t", MappingProxyType({}), MappingProxyType({}), stopper.rules())
        answers = []
        for event in (asked, Started(0.0, 30, 1, {}), *[Reported(0.0, 30, (Report("accuracy", text),)) for text in texts]):
            search.apply(event)
            answers.append(stopper.see(event, search.trials[30]))
        return answers.count(True)

    def test_both_directions_are_alike(self) -> None:
        series = curves(30)
        negated = [[-value for value in one] for one in series]
        for parallel in (1, 4):
            up, down = self.play(series, parallel=parallel), self.play(negated, MINIMIZE, parallel)
            assert up.decisions == down.decisions

    def test_texts_that_are_no_numbers_are_no_reports(self) -> None:
        series = curves(14)
        whole = self.play(series)
        quiet, noisy = self.make_stopper(MAXIMIZE), self.make_stopper(MAXIMIZE)
        search = Search(MAXIMIZE)
        for event in whole.events:
            search.apply(event)
            if isinstance(event, TrialEvent):
                trial = search.trials[event.number]
                if isinstance(event, Reported):
                    assert not noisy.see(Reported(0.0, event.number, (Report("accuracy", "none"), Report("loss", "1"))), trial)
                assert noisy.see(event, trial) == quiet.see(event, trial)
                assert noisy.rules() == quiet.rules()
