"""The promises of a Suggester, as tests: mix into a class that has `make_suggester()`, a fresh one with the same seed at each call."""

from __future__ import annotations

from types import MappingProxyType

from factories import make_experiment, make_trial
from katuna.contracts import NoSuggestion, Suggester, Suggestion
from katuna.metrics.line import Report
from katuna.spec.model import Experiment
from katuna.trials import Assignments, Summary, Trial, TrialState

TRIALS = 14
"""More than the ten trials with which TPE begins at random."""


def ended(number: int, point: Assignments) -> Trial:
    """A trial that came out as its parameters make it; every fifth one failed."""
    value = len(point.get("optimizer", "")) + sum(float(text) for name, text in point.items() if name != "optimizer") / 100
    if number % 5 == 4:
        return make_trial(number, state=TrialState.FAILED, assignments=point)
    summaries = MappingProxyType({"accuracy": Summary().add(Report("accuracy", repr(value)))})
    return make_trial(number, state=TrialState.SUCCEEDED, assignments=point, summaries=summaries)


class SuggesterContract:
    experiment: Experiment = make_experiment()

    def make_suggester(self, seed: int = 7) -> Suggester:
        raise NotImplementedError

    def drive(self, suggester: Suggester, first: int, last: int, parallel: int = 1) -> list[Assignments]:
        """Asks `first` to `last`, with `parallel` trials running at a time, each told when the next but `parallel` is asked."""
        points: dict[int, Assignments] = {}
        for number in range(first, last):
            if number - parallel in points:
                suggester.tell(ended(number - parallel, points[number - parallel]))
            suggestion = suggester.ask(number)
            assert not isinstance(suggestion, NoSuggestion)
            points[number] = dict(suggestion.assignments)
        return list(points.values())

    def test_points_have_every_parameter_and_lie_in_the_space(self) -> None:
        for point in self.drive(self.make_suggester(), 0, TRIALS):
            assert list(point) == [parameter.name for parameter in self.experiment.parameters]
            for parameter in self.experiment.parameters:
                assert parameter.contains(point[parameter.name]), (parameter, point[parameter.name])

    def test_same_seed_and_history_give_the_same_points(self) -> None:
        assert self.drive(self.make_suggester(), 0, TRIALS, 3) == self.drive(self.make_suggester(), 0, TRIALS, 3)

    def test_another_seed_gives_other_points(self) -> None:
        assert self.drive(self.make_suggester(7), 0, TRIALS) != self.drive(self.make_suggester(8), 0, TRIALS)

    def test_restored_at_any_moment_it_goes_on_as_if_never_gone(self) -> None:
        whole = self.drive(self.make_suggester(), 0, TRIALS)
        for cut in (0, 1, 5, 11, TRIALS - 1):
            again = self.make_suggester()
            for number, point in enumerate(whole[:cut]):
                again.restore(number, Suggestion(point))
                if number < cut - 1:
                    again.tell(ended(number, point))
            if cut:
                again.tell(ended(cut - 1, whole[cut - 1]))
            assert self.drive(again, cut, TRIALS) == whole[cut:], f"restored after {cut}"

    def test_restored_with_running_trials_it_goes_on_as_if_never_gone(self) -> None:
        parallel, cut = 3, 12
        whole = self.drive(self.make_suggester(), 0, TRIALS, parallel)
        again = self.make_suggester()
        for number in range(cut):
            if number >= parallel:
                again.tell(ended(number - parallel, whole[number - parallel]))
            again.restore(number, Suggestion(whole[number]))
        again.tell(ended(cut - parallel, whole[cut - parallel]))
        assert again.ask(cut) == Suggestion(whole[cut])
