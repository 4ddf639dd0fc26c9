"""The promises of a Launcher, as tests: mix into a class that has the three methods below."""

from __future__ import annotations

from dataclasses import dataclass

from factories import make_trial
from katuna.jobs.lifecycle import ContainerExited, ContainerStarted
from katuna.search.contracts import Clock, Launcher, LaunchEvent, TrialRequest
from katuna.search.trials import Exited, Reported, Started, Told

PATIENCE_S = 30.0
"""Far beyond what anything here takes, for a loaded machine."""


@dataclass(frozen=True)
class Behaviour:
    """What a trial shall do: report `accuracy` values one after another, then exit with `code` (None: it cannot even start)."""

    values: tuple[str, ...] = ()
    code: int | None = 0
    pause_s: float = 0.0
    hangs: bool = False
    ignores_term: bool = False
    then: Behaviour | None = None
    """What the next attempt does, which the job allows."""
    prints: str = ""
    """A line of its own before anything else."""
    flood: int = 0
    """So many values of 0.5 at once, after the others."""


AT_ONCE = 10_000
"""Reports of one trial in one `poll`, at most."""

HANGS = Behaviour(("0.1",), hangs=True)


class LauncherContract:
    def make_launcher(self) -> Launcher:
        """A fresh one that has started nothing."""
        raise NotImplementedError

    def make_clock(self) -> Clock:
        """The clock that the launcher's `poll` passes time on."""
        raise NotImplementedError

    def request(self, number: int, behaviour: Behaviour) -> TrialRequest:
        """A trial that behaves so."""
        raise NotImplementedError

    # What the tests below are made of

    def until_exited(self, launcher: Launcher, *numbers: int) -> list[LaunchEvent]:
        """All events until each of the trials has exited, and none comes after."""
        waiting, events = set(numbers), list[LaunchEvent]()
        clock = self.make_clock()
        give_up = clock.now() + PATIENCE_S
        while waiting:
            assert clock.now() < give_up, f"trials {waiting} never exited; events: {events}"
            found = launcher.poll(1.0)
            events += found
            waiting -= {event.number for event in found if isinstance(event, Exited)}
        assert not launcher.poll(0.0)
        return events

    def until_reported(self, launcher: Launcher, number: int) -> list[LaunchEvent]:
        events: list[LaunchEvent] = []
        clock = self.make_clock()
        give_up = clock.now() + PATIENCE_S
        while not any(isinstance(event, Reported) and event.number == number for event in events):
            assert clock.now() < give_up, f"trial {number} never reported; events: {events}"
            events += launcher.poll(1.0)
        return events

    @staticmethod
    def in_order(events: list[LaunchEvent], number: int) -> None:
        """Started, any number of Reported, one Exited at the end; a later Started has the next attempt. What is told of containers comes
        before the end, of each its start and then its own end."""
        whole = [event for event in events if event.number == number]
        own = [event for event in whole if not isinstance(event, Told)]
        assert own[-1] is whole[-1]
        running: set[tuple[str, str]] = set()
        for event in whole:
            if isinstance(event, ContainerStarted):
                assert (event.pod, event.container) not in running
                running.add((event.pod, event.container))
            elif isinstance(event, ContainerExited):
                running.discard((event.pod, event.container))
        assert not running
        assert isinstance(own[0], Started)
        assert [type(event) for event in own].count(Exited) == 1
        assert isinstance(own[-1], Exited)
        attempts = [event.attempt for event in own if isinstance(event, Started)]
        assert attempts == list(range(1, len(attempts) + 1))
        assert [event.at for event in whole] == sorted(event.at for event in whole)

    @staticmethod
    def values(events: list[LaunchEvent], number: int) -> list[str]:
        found = [event for event in events if isinstance(event, Reported) and event.number == number]
        return [report.value for event in found for report in event.reports if report.metric == "accuracy"]

    # The promises

    def test_a_trial_starts_reports_and_exits(self) -> None:
        launcher = self.make_launcher()
        launcher.start(self.request(3, Behaviour(("0.1", "0.2"))))
        events = self.until_exited(launcher, 3)
        self.in_order(events, 3)
        assert self.values(events, 3) == ["0.1", "0.2"]
        end = events[-1]
        assert isinstance(end, Exited)
        assert (end.code, end.reason) == (0, "Completed")
        launcher.close()

    def test_a_failure_keeps_its_exit_code_and_says_something(self) -> None:
        launcher = self.make_launcher()
        launcher.start(self.request(0, Behaviour(("0.1",), code=7)))
        end = self.until_exited(launcher, 0)[-1]
        assert isinstance(end, Exited)
        assert (end.code, end.reason) == (7, "Error")
        assert "7" in end.message
        launcher.close()

    def test_a_trial_that_cannot_start_is_an_exit_without_a_code(self) -> None:
        launcher = self.make_launcher()
        launcher.start(self.request(0, Behaviour(code=None)))
        (end,) = self.until_exited(launcher, 0)
        assert isinstance(end, Exited)
        assert end.code is None
        assert end.reason == "StartError"
        assert end.message
        launcher.close()

    def test_trials_run_side_by_side(self) -> None:
        launcher = self.make_launcher()
        launcher.start(self.request(0, Behaviour(("0.1",), hangs=True)))
        launcher.start(self.request(1, Behaviour(("0.2",))))
        events = self.until_reported(launcher, 0)
        if not any(isinstance(event, Exited) for event in events):
            events += self.until_exited(launcher, 1)
        self.in_order(events, 1)
        launcher.stop(0, 5.0)
        events += self.until_exited(launcher, 0)
        self.in_order(events, 0)
        assert self.values(events, 0) == ["0.1"]
        launcher.close()

    def test_poll_with_nothing_to_tell_waits_and_answers_nothing(self) -> None:
        launcher, clock = self.make_launcher(), self.make_clock()
        before = clock.now()
        assert list(launcher.poll(0.2)) == []
        assert clock.now() - before >= 0.19
        launcher.close()

    def test_a_stopped_trial_exits_once(self) -> None:
        launcher = self.make_launcher()
        launcher.start(self.request(0, HANGS))
        events = self.until_reported(launcher, 0)
        launcher.stop(0, 5.0)
        launcher.stop(0, 5.0)
        events += self.until_exited(launcher, 0)
        self.in_order(events, 0)
        assert isinstance(events[-1], Exited)
        assert events[-1].code == 143
        launcher.stop(0, 5.0)
        assert not launcher.poll(0.0)
        launcher.close()

    def test_what_a_stopped_trial_had_reported_is_kept(self) -> None:
        launcher = self.make_launcher()
        launcher.start(self.request(0, Behaviour(("0.1", "0.2", "0.3"), hangs=True)))
        events: list[LaunchEvent] = []
        while "0.3" not in self.values(events, 0):
            events += self.until_reported(launcher, 0)
        launcher.stop(0, 5.0)
        events += self.until_exited(launcher, 0)
        self.in_order(events, 0)
        assert self.values(events, 0) == ["0.1", "0.2", "0.3"]
        launcher.close()

    def test_reports_of_trials_side_by_side_do_not_mix(self) -> None:
        launcher = self.make_launcher()
        for number in range(3):
            launcher.start(self.request(number, Behaviour((f"0.{number}", f"1.{number}"), pause_s=0.02)))
        events = self.until_exited(launcher, 0, 1, 2)
        for number in range(3):
            self.in_order(events, number)
            assert self.values(events, number) == [f"0.{number}", f"1.{number}"]
        launcher.close()

    def test_a_trial_that_ignores_the_request_is_killed_after_the_grace_period(self) -> None:
        launcher, clock = self.make_launcher(), self.make_clock()
        launcher.start(self.request(0, Behaviour(("0.1",), hangs=True, ignores_term=True)))
        self.until_reported(launcher, 0)
        before = clock.now()
        launcher.stop(0, 0.5)
        end = self.until_exited(launcher, 0)[-1]
        assert isinstance(end, Exited)
        assert end.code == 137
        assert end.at - before >= 0.45
        launcher.close()

    def test_a_shorter_grace_period_hastens_the_end(self) -> None:
        launcher, clock = self.make_launcher(), self.make_clock()
        launcher.start(self.request(0, Behaviour(("0.1",), hangs=True, ignores_term=True)))
        self.until_reported(launcher, 0)
        launcher.stop(0, 3600.0)
        launcher.stop(0, 0.2)
        before = clock.now()
        end = self.until_exited(launcher, 0)[-1]
        assert isinstance(end, Exited)
        assert end.code == 137
        assert end.at - before < PATIENCE_S
        launcher.close()

    def test_a_trial_stopped_before_it_began_exits_all_the_same(self) -> None:
        launcher = self.make_launcher()
        launcher.start(self.request(0, HANGS))
        launcher.stop(0, 5.0)
        events = self.until_exited(launcher, 0)
        assert isinstance(events[-1], Exited)
        assert events[-1].code != 0
        launcher.close()

    def test_a_stop_and_an_exit_together_are_one_exit(self) -> None:
        launcher = self.make_launcher()
        for number in range(4):
            launcher.start(self.request(number, Behaviour(("0.1",), pause_s=0.05 * number)))
        events: list[LaunchEvent] = []
        while not any(isinstance(event, Exited) for event in events):
            events += launcher.poll(1.0)
        for number in range(4):
            launcher.stop(number, 5.0)
        ended = {event.number for event in events if isinstance(event, Exited)}
        events += self.until_exited(launcher, *(set(range(4)) - ended))
        assert sorted(event.number for event in events if isinstance(event, Exited)) == [0, 1, 2, 3]
        launcher.close()

    def test_stopping_what_does_not_run_is_nothing(self) -> None:
        launcher = self.make_launcher()
        launcher.stop(17, 1.0)
        assert not launcher.poll(0.0)
        launcher.close()

    def test_a_restart_is_another_start_without_an_exit_between(self) -> None:
        launcher = self.make_launcher()
        launcher.start(self.request(0, Behaviour(("0.1",), code=3, then=Behaviour(("0.2",)))))
        events = self.until_exited(launcher, 0)
        self.in_order(events, 0)
        starts = [index for index, event in enumerate(events) if isinstance(event, Started)]
        assert len(starts) == 2
        assert self.values(events[: starts[1]], 0) == ["0.1"]
        assert self.values(events[starts[1] :], 0) == ["0.2"]
        assert isinstance(events[-1], Exited)
        assert events[-1].code == 0
        launcher.close()

    def test_what_a_trial_says_in_its_last_moment_comes_in_rounds(self) -> None:
        launcher, clock = self.make_launcher(), self.make_clock()
        launcher.start(
            self.request(0, Behaviour(("0.1",), flood=3 * AT_ONCE, code=3, then=Behaviour(("0.2",), flood=3 * AT_ONCE)))
        )
        give_up, events = clock.now() + PATIENCE_S, list[LaunchEvent]()
        while not any(isinstance(event, Exited) for event in events):
            assert clock.now() < give_up, f"{len(events)} events and no end"
            found = list(launcher.poll(1.0))
            assert len(self.values(found, 0)) <= AT_ONCE
            events += found
        self.in_order(events, 0)
        starts = [index for index, event in enumerate(events) if isinstance(event, Started)]
        assert self.values(events[: starts[1]], 0) == ["0.1"] + ["0.5"] * 3 * AT_ONCE
        assert self.values(events[starts[1] :], 0) == ["0.2"] + ["0.5"] * 3 * AT_ONCE
        launcher.close()

    def test_a_trial_that_is_stopped_ends_without_the_rest_of_what_it_said(self) -> None:
        launcher = self.make_launcher()
        launcher.start(self.request(0, Behaviour(flood=50 * AT_ONCE)))
        events = self.until_reported(launcher, 0)
        launcher.stop(0, 3600.0)
        events += self.until_exited(launcher, 0)
        self.in_order(events, 0)
        assert len(self.values(events, 0)) < 50 * AT_ONCE
        launcher.close()

    def test_a_stopped_trial_does_not_restart(self) -> None:
        launcher = self.make_launcher()
        launcher.start(self.request(0, Behaviour(("0.1",), hangs=True, code=3, then=Behaviour(("0.2",)))))
        events = self.until_reported(launcher, 0)
        launcher.stop(0, 5.0)
        events += self.until_exited(launcher, 0)
        assert sum(isinstance(event, Started) for event in events) == 1
        launcher.close()

    def test_lines_that_came_near_are_kept_when_the_objective_was_not_found(self) -> None:
        launcher = self.make_launcher()
        launcher.start(self.request(0, Behaviour(prints="accurac=0.5")))
        end = self.until_exited(launcher, 0)[-1]
        assert isinstance(end, Exited)
        assert end.nearest == ("accurac=0.5",)
        launcher.close()

    def test_nothing_of_an_earlier_process_runs_here(self) -> None:
        launcher = self.make_launcher()
        assert launcher.attach(make_trial(5)) is False
        launcher.close()

    def test_close_ends_everything_and_may_be_called_again(self) -> None:
        launcher = self.make_launcher()
        launcher.start(self.request(0, HANGS))
        launcher.start(self.request(1, HANGS))
        self.until_reported(launcher, 1)
        launcher.close()
        launcher.close()
        assert not launcher.poll(0.0)
