"""The promises of a Suggester, as tests: mix into a class that has `make_suggester()`, a fresh one with the same seed at each call."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from factories import make_experiment, make_trial
from katuna.manifest.experiment import Experiment
from katuna.metric_line import Report
from katuna.search.contracts import NoSuggestion, Suggester, Suggestion
from katuna.search.suggest import suggester_for
from katuna.search.trials import Assignments, Summary, Trial, TrialState

TRIALS = 14
"""More than the ten trials with which TPE begins at random."""

Step = tuple[int, Suggestion | None]
"""A trial was asked for, or, with None, has ended."""


def ended(number: int, point: Assignments, value: float | None = None) -> Trial:
    """A trial that came out as its parameters make it; every fifth one failed."""
    if value is None:
        value = len(point.get("optimizer", "")) + sum(float(text) for name, text in point.items() if name != "optimizer") / 100
        if number % 5 == 4:
            return make_trial(number, state=TrialState.FAILED, assignments=point)
    summaries = MappingProxyType({"accuracy": Summary().add(Report("accuracy", repr(value)))})
    return make_trial(number, state=TrialState.SUCCEEDED, assignments=point, summaries=summaries)


def points_of(steps: Sequence[Step]) -> list[Assignments]:
    return [dict(suggestion.assignments) for _, suggestion in steps if suggestion is not None]


def drive(suggester: Suggester, trials: int, parallel: int = 1, steps: Sequence[Step] = ()) -> list[Step]:
    """Goes on from `steps` until so many trials are asked for or no more come. The oldest trial ends whenever `parallel` run, or the
    suggester waits for one."""
    done = list(steps)
    asked = {number: suggestion for number, suggestion in done if suggestion is not None}
    running = [number for number in asked if (number, None) not in done]
    waiting = False
    while len(asked) < trials:
        if len(running) == parallel or waiting:
            assert running, "it waits for nothing"
            number = running.pop(0)
            suggester.tell(ended(number, asked[number].assignments))
            done.append((number, None))
        answer = suggester.ask(len(asked))
        waiting = answer is NoSuggestion.WAIT
        if answer is NoSuggestion.EXHAUSTED:
            break
        if isinstance(answer, Suggestion):
            running.append(len(asked))
            done.append((len(asked), answer))
            asked[len(asked)] = answer
    return done


def replay(suggester: Suggester, steps: Sequence[Step]) -> Suggester:
    points: dict[int, Assignments] = {}
    for number, suggestion in steps:
        if suggestion is None:
            suggester.tell(ended(number, points[number]))
        else:
            points[number] = suggestion.assignments
            suggester.restore(number, suggestion)
    return suggester


class SuggesterContract:
    experiment: Experiment = make_experiment()
    trials = TRIALS
    seeded = True
    takes_tries = True

    def make_suggester(self, seed: int = 7) -> Suggester:
        return suggester_for(self.experiment, seed)

    def test_points_have_every_parameter_and_lie_in_the_space(self) -> None:
        for point in points_of(drive(self.make_suggester(), self.trials)):
            assert list(point) == [parameter.name for parameter in self.experiment.parameters]
            for parameter in self.experiment.parameters:
                assert parameter.contains(point[parameter.name]), (parameter, point[parameter.name])

    def test_same_seed_and_history_give_the_same_points(self) -> None:
        assert drive(self.make_suggester(), self.trials, 3) == drive(self.make_suggester(), self.trials, 3)

    def test_another_seed_gives_other_points(self) -> None:
        one, other = (drive(self.make_suggester(seed), self.trials) for seed in (7, 8))
        assert (points_of(one) != points_of(other)) is self.seeded

    def test_restored_at_any_moment_it_goes_on_as_if_never_gone(self) -> None:
        whole = drive(self.make_suggester(), self.trials)
        for cut in {0, 1, 2, len(whole) // 2, len(whole) // 2 + 1, len(whole) - 1}:
            again = replay(self.make_suggester(), whole[:cut])
            assert drive(again, self.trials, steps=whole[:cut]) == whole, f"restored after {cut} of {len(whole)} steps"

    def test_restored_with_running_trials_it_goes_on_as_if_never_gone(self) -> None:
        whole = drive(self.make_suggester(), self.trials, 3)
        for cut in (len(whole) // 2, len(whole) - 2, len(whole) - 1):
            again = replay(self.make_suggester(), whole[:cut])
            assert drive(again, self.trials, 3, whole[:cut]) == whole, f"restored after {cut} of {len(whole)} steps"

    def test_points_of_a_users_and_known_results_are_part_of_the_history(self) -> None:
        other = points_of(drive(self.make_suggester(99), 4, 4))
        runs = []
        for _ in range(2):
            suggester = self.make_suggester()
            for value, point in enumerate(other[2:]):
                suggester.learn(point, float(value))
            tried = [(number, Suggestion(point)) for number, point in enumerate(other[: 2 * self.takes_tries])]
            steps = runs[0][: len(runs[0]) // 2] if runs else tried
            runs.append(drive(replay(suggester, steps), self.trials, 2, steps))
        assert runs[0] == runs[1]
        assert len(points_of(runs[0])) >= 4
