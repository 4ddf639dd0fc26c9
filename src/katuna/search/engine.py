"""The loop: ask, start, poll, tell, until the budget ends it. Sees three contracts and a clock; no process, no Optuna, no cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import MappingProxyType

from katuna.jobs.lifecycle import COMPLETED
from katuna.manifest.experiment import Experiment
from katuna.manifest.render import render
from katuna.metric_line import Report
from katuna.search.budget import SPACE_EXHAUSTED, SUSPENDED, TIME_IN_VAIN, TIME_IS_UP, End, cut_short, edited, room, verdict
from katuna.search.contracts import (
    PARENT_LABEL,
    Clock,
    Launcher,
    LaunchEvent,
    NoSuggestion,
    Stopper,
    Store,
    Suggester,
    Suggestion,
    TrialRequest,
)
from katuna.search.trials import (
    EARLY_STOPPED,
    UNREPORTED,
    Asked,
    Assignments,
    Edited,
    Ended,
    Event,
    Exited,
    Known,
    Reported,
    Resumed,
    Search,
    Started,
    Stopping,
    Told,
    Trial,
    TrialEvent,
    name_of_trial,
)

POLL_S = 0.5
ALL_KEPT = 10_000
KEPT_AT_ONCE = 20
"""Where a trial has told ALL_KEPT values, about so many of a metric are kept of those that are read at once: a burst of millions
shall not make a journal that nobody can read."""
THINNED = "it reported faster than every value is kept: its minimum, maximum and latest are exact, its curve leaves out values that its output has"
GRACE_S = 10.0
"""What a trial that the search stops has between SIGTERM and SIGKILL."""

Watcher = Callable[[Event, Search], None]


class Engine:
    """One search in one process.

    `stopper` says which running trials to stop early. `tries` are the points of the first trials. With `let_running_finish` the
    trials that run when the budget ends the search go on to their own end, as on a cluster; else they are stopped.
    `deadline` is on the scale of `clock.elapsed`; what runs then is stopped in any case. `interruptions` is asked once a round: how often the
    search was asked to pause. The first time, running trials are stopped and the journal is left resumable; the second time they
    are stopped at once. A trial that is stopped has `grace_s` between SIGTERM and SIGKILL. `watch` sees every event after it was
    journalled, `look` is called once a round.
    """

    def __init__(
        self,
        experiment: Experiment,
        suggester: Suggester,
        launcher: Launcher,
        store: Store,
        clock: Clock,
        *,
        stopper: Stopper | None = None,
        tries: Sequence[Assignments] = (),
        let_running_finish: bool = False,
        deadline: float | None = None,
        grace_s: float = GRACE_S,
        interruptions: Callable[[], int] = lambda: 0,
        watch: Watcher | None = None,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        self._experiment = experiment
        self._suggester = suggester
        self._launcher = launcher
        self._store = store
        self._clock = clock
        self._stopper = stopper
        self._tries = tries
        self._let_running_finish = let_running_finish
        self._deadline = deadline
        self._grace_s = grace_s
        self._interruptions = interruptions
        self._watch = watch
        self._look = look
        self._to_restart: list[int] = []
        self._search = Search(experiment.objective)
        self._end: End | None = None
        self._exhausted = False
        self._thinned: set[int] = set()

    def run(self) -> End | None:
        """Runs the search to its end, from wherever the journal stands; None when it was interrupted.

        The journal holds at least its Opened event. Raises StoreFailed, after stopping all trials, when an event cannot be kept.
        """
        try:
            self._recover()
            ended = self._search.ended
            return self._loop() if ended is None else End(ended.succeeded, ended.reason, ended.message)
        finally:
            self._close()

    def _close(self) -> None:
        """Leaves no trial behind, also when whoever interrupted once has no patience for the grace period."""
        try:
            self._launcher.close()
        except BaseException:
            self._launcher.close(0.0)
            raise

    def _loop(self) -> End | None:
        while True:
            if self._interruptions():
                self._pause()
                ended = self._experiment.is_training and not self._search.unfinished
                return self._finish(self._end) if self._end is not None and ended else None
            late = self._deadline is not None and self._clock.elapsed() >= self._deadline
            if self._end is None and late:
                self._end = TIME_IS_UP if self._search.best else TIME_IN_VAIN
            if self._end is None:
                self._restart()
                self._ask_for_more()
                if self._exhausted and not self._search.unfinished:
                    self._end = SPACE_EXHAUSTED
            elif self._let_running_finish and not late:
                self._restart()
            if self._end is not None and (late or not self._let_running_finish or not self._search.unfinished):
                return self._finish(self._end)
            self._poll(self._patience())

    # What has been

    def _recover(self) -> None:
        """Rebuilds everything in journal order, and finds what an earlier process left unfinished."""
        to_stop: set[int] = set()
        events = 0
        for event in self._store.replay():
            events += not isinstance(event, Known)
            if isinstance(event, Asked):
                self._suggester.restore(event.number, Suggestion(event.assignments, event.labels))
            if self._follow(event) and isinstance(event, TrialEvent):
                to_stop.add(event.number)
        if self._search.ended is not None:
            return
        unfinished = [trial for trial in self._search.trials.values() if not trial.state.is_final or self._was_put_off(trial)]
        self._to_restart = [trial.number for trial in unfinished if not self._launcher.attach(trial)]
        if events > 1:
            self._record(Resumed(self._clock.now(), tuple(self._to_restart)))
        for trial in unfinished:
            # It still runs: what was decided of it may not have been journalled, or not have reached it.
            if trial.number in to_stop and trial.number not in self._to_restart:
                self._stop_early(trial.number)

    def _was_put_off(self, trial: Trial) -> bool:
        return cut_short(trial) or (self._experiment.is_training and trial.reason == SUSPENDED)

    def _follow(self, event: Event) -> bool:
        """What comes of an event in memory, be it new or replayed: the search, who is told, the end decided. True: stop its trial."""
        search = self._search
        if isinstance(event, Told) or (isinstance(event, Exited) and search.trials[event.number].state.is_final):
            return False
        reopened = isinstance(event, Resumed) and any(search.trials[number].state.is_final for number in event.restarted)
        search.apply(event)
        if isinstance(event, Exited) and cut_short(search.trials[event.number]):
            # No end of its own: nobody is told, so that it can begin again.
            return False
        if reopened:
            self._end = verdict(self._experiment, search)
        match event:
            case Known():
                self._suggester.learn(event.assignments, event.value)
            case Edited():
                self._experiment = edited(self._experiment, search)
                self._end = verdict(self._experiment, search)
            case Resumed() if self._stopper is not None:
                for number in event.restarted:
                    self._stopper.forget(number)
            case Exited():
                self._suggester.tell(search.trials[event.number])
                # The first verdict stands, whatever trials that still run bring.
                self._end = self._end or verdict(self._experiment, search)
        if self._stopper is None or not isinstance(event, TrialEvent):
            return False
        return self._stopper.see(event, search.trials[event.number])

    def _record(self, event: Event) -> bool:
        """Journal first, then memory, then whoever watches. True: its trial shall be stopped early."""
        self._store.append(event)
        stop = self._follow(event)
        if self._watch is not None:
            self._watch(event, self._search)
        return stop

    # What comes

    def _restart(self) -> None:
        while self._to_restart:
            self._start(self._search.trials[self._to_restart.pop(0)])

    def _ask_for_more(self) -> None:
        for _ in range(room(self._experiment, self._search)):
            number = len(self._search.trials)
            answer = self._suggestion(number)
            if isinstance(answer, NoSuggestion):
                self._exhausted = answer is NoSuggestion.EXHAUSTED
                assert self._exhausted or self._search.unfinished, "a suggester may only WAIT for trials that run"
                return
            name = name_of_trial(self._experiment, self._seed, number)
            rules = self._stopper.rules() if self._stopper is not None else ()
            point = MappingProxyType(dict(answer.assignments))
            self._record(Asked(self._clock.now(), number, name, point, answer.labels, rules))
            self._start(self._search.trials[number])

    def _suggestion(self, number: int) -> Suggestion | NoSuggestion:
        if number >= len(self._tries):
            return self._suggester.ask(number)
        wanted = Suggestion(self._tries[number])
        self._suggester.restore(number, wanted)
        return wanted

    @property
    def _seed(self) -> int:
        assert self._search.opened is not None, "a journal begins with Opened"
        return self._search.opened.seed

    def _start(self, trial: Trial) -> None:
        manifest = render(self._experiment, trial.name, trial.assignments)
        self._launcher.start(TrialRequest(trial.number, trial.name, manifest, trial.labels.get(PARENT_LABEL, "")))

    def _patience(self) -> float:
        if self._deadline is None:
            return POLL_S
        return min(POLL_S, max(0.0, self._deadline - self._clock.elapsed()))

    def _poll(self, timeout_s: float) -> None:
        for event in self._launcher.poll(timeout_s):
            self._take(event)
        self._store.sync()
        self._look()

    def _take(self, event: LaunchEvent) -> None:
        if isinstance(event, Reported) and self._stopper is not None:
            self._record_steps(event)
            return
        if isinstance(event, Started):
            self._thinned.discard(event.number)
        elif isinstance(event, Reported) and self._has_told_much(event.number):
            kept = thinned(event.reports)
            if len(kept) < len(event.reports):
                self._thinned.add(event.number)
            event = replace(event, reports=kept)
        elif isinstance(event, Exited) and event.number in self._thinned:
            event = replace(event, warnings=(*event.warnings, THINNED))
        self._record(event)

    def _has_told_much(self, number: int) -> bool:
        return sum(summary.count for summary in self._search.trials[number].summaries.values()) >= ALL_KEPT

    def _record_steps(self, event: Reported) -> None:
        """Line by line, so that a decision to stop early falls on a report and not on what was read at a time. What comes after it
        is left out: the trial's value is the one that was decided on, as when Katib's collector reads its metrics then."""
        for reports in _lines(event.reports):
            if self._search.trials[event.number].stop_reason:
                return
            if self._record(Reported(event.at, event.number, reports)):
                self._stop_early(event.number)

    def _stop_early(self, number: int) -> None:
        if not self._search.trials[number].stop_reason:
            self._record(Stopping(self._clock.now(), number, EARLY_STOPPED))
        self._launcher.stop(number, self._grace_s)

    def _pause(self) -> None:
        """Journals what had happened before, then stops what runs and journals its containers' ends, but none of the trials': they
        begin again when the search goes on. So does one that had ended with an error: what interrupts katuna may have signalled it
        too. A training that comes to its own end meanwhile has ended."""
        running = {trial.number for trial in self._search.unfinished} - set(self._to_restart)
        for event in self._launcher.poll(0.0):
            if isinstance(event, Exited):
                running.discard(event.number)
            if not isinstance(event, Exited) or event.code == 0 or self._search.trials[event.number].stop_reason:
                self._take(event)
        self._store.sync()
        for number in running:
            self._launcher.stop(number, self._grace_s)
        hurried = False
        while running:
            if self._interruptions() > 1 and not hurried:
                hurried = True
                for number in running:
                    self._launcher.stop(number, 0.0)
            for event in self._launcher.poll(POLL_S):
                if isinstance(event, Exited):
                    running.discard(event.number)
                if isinstance(event, Told) or (self._experiment.is_training and getattr(event, "reason", "") == COMPLETED):
                    self._record(event)
            self._look()

    def _finish(self, end: End) -> End:
        """Stops what still runs (a cluster would let it run on; katib.md 10, B10) and closes the journal."""
        for trial in self._search.unfinished:
            if not trial.stop_reason:
                self._record(Stopping(self._clock.now(), trial.number, end.reason))
            if trial.number in self._to_restart:
                self._record(Exited(self._clock.now(), trial.number, None, end.reason))
            else:
                self._launcher.stop(trial.number, self._grace_s)
        while self._search.unfinished:
            if self._interruptions():
                for trial in self._search.unfinished:
                    self._launcher.stop(trial.number, 0.0)
            self._poll(POLL_S)
        self._record(Ended(self._clock.now(), end.succeeded, end.reason, end.message))
        return end


def thinned(reports: Sequence[Report], most: int = KEPT_AT_ONCE) -> tuple[Report, ...]:
    """Of more than `most` reports of a metric about so many, evenly chosen, and those that decide on its minimum, maximum and latest
    value, which stay what they are."""
    places: dict[str, list[int]] = {}
    for place, report in enumerate(reports):
        places.setdefault(report.metric, []).append(place)
    kept: set[int] = set()
    for own in places.values():
        kept.update(own[:: len(own) // most + 1] if len(own) > most else own)
        decisive, summary = [own[0]] * 3, UNREPORTED
        for place in own if len(own) > most else ():
            before, summary = summary, summary.add(reports[place])
            for index, field in enumerate(("minimum", "maximum", "latest")):
                if getattr(before, field) != getattr(summary, field) or (
                    field == "latest" and before.latest_us != summary.latest_us
                ):
                    decisive[index] = place
        kept.update(decisive)
    return tuple(report for place, report in enumerate(reports) if place in kept)


def _lines(reports: Sequence[Report]) -> Iterator[tuple[Report, ...]]:
    """The reports in pieces in each of which no metric comes twice."""
    line: list[Report] = []
    for report in reports:
        if any(report.metric == other.metric for other in line):
            yield tuple(line)
            line = []
        line.append(report)
    yield tuple(line)
