"""The loop: ask, start, poll, tell, until the budget ends it. Sees three contracts and a clock; no process, no Optuna, no cluster."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from katuna.contracts import PARENT_LABEL, Clock, Launcher, NoSuggestion, Store, Suggester, Suggestion, TrialRequest
from katuna.search.budget import SPACE_EXHAUSTED, TIME_IN_VAIN, TIME_IS_UP, End, room, verdict
from katuna.spec.model import Experiment
from katuna.spec.render import render
from katuna.trials import Asked, Ended, Event, Exited, Known, Resumed, Search, Stopping, Trial, trial_name

POLL_S = 0.5
GRACE_S = 10.0
"""What a trial that the search stops has between SIGTERM and SIGKILL."""

Watcher = Callable[[Event, Search], None]


class Engine:
    """One search in one process.

    `deadline` is on `clock`'s scale. `interruptions` is asked once a round: how often the search was asked to pause. The first
    time, running trials are stopped and the journal is left resumable; the second time they are stopped at once. `watch` sees
    every event after it was journalled.
    """

    def __init__(
        self,
        experiment: Experiment,
        suggester: Suggester,
        launcher: Launcher,
        store: Store,
        clock: Clock,
        *,
        deadline: float | None = None,
        interruptions: Callable[[], int] = lambda: 0,
        watch: Watcher | None = None,
    ) -> None:
        self._experiment = experiment
        self._suggester = suggester
        self._launcher = launcher
        self._store = store
        self._clock = clock
        self._deadline = deadline
        self._interruptions = interruptions
        self._watch = watch
        self._to_restart: list[int] = []
        self._search = Search(experiment.objective)
        self._exhausted = False

    def run(self) -> End | None:
        """Runs the search to its end, from wherever the journal stands; None when it was interrupted.

        The journal holds at least its Opened event. Raises StoreFailed, after stopping all trials, when an event cannot be kept.
        """
        try:
            self._recover()
            return self._loop()
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
                return None
            end = verdict(self._experiment, self._search)
            if end is None and self._deadline is not None and self._clock.now() >= self._deadline:
                end = TIME_IS_UP if self._search.best else TIME_IN_VAIN
            if end is None:
                self._ask_for_more()
                if self._exhausted and not self._search.unfinished:
                    end = SPACE_EXHAUSTED
            if end is not None:
                return self._finish(end)
            self._poll(self._patience())

    def _recover(self) -> None:
        """Rebuilds the search and the suggester in journal order, and finds what an earlier process left unfinished."""
        events = list(self._store.replay())
        told: set[int] = set()
        for event in events:
            self._search.apply(event)
            match event:
                case Asked():
                    self._suggester.restore(event.number, Suggestion(event.assignments, event.labels))
                case Known():
                    self._suggester.learn(event.assignments, event.value)
                case Exited() if event.number not in told:
                    told.add(event.number)
                    self._suggester.tell(self._search.trials[event.number])
        self._to_restart = [trial.number for trial in self._search.unfinished if not self._launcher.attach(trial)]
        if len(events) > 1:
            self._record(Resumed(self._clock.now(), tuple(self._to_restart)))

    def _ask_for_more(self) -> None:
        while self._to_restart:
            self._start(self._search.trials[self._to_restart.pop(0)])
        for _ in range(room(self._experiment, self._search)):
            number = len(self._search.trials)
            answer = self._suggester.ask(number)
            if isinstance(answer, NoSuggestion):
                self._exhausted = answer is NoSuggestion.EXHAUSTED
                assert self._exhausted or self._search.unfinished, "a suggester may only WAIT for trials that run"
                return
            name = trial_name(self._experiment.name, self._seed, number)
            self._record(Asked(self._clock.now(), number, name, MappingProxyType(dict(answer.assignments)), answer.labels))
            self._start(self._search.trials[number])

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
        return min(POLL_S, max(0.0, self._deadline - self._clock.now()))

    def _poll(self, timeout_s: float) -> None:
        for event in self._launcher.poll(timeout_s):
            self._record(event)
            if isinstance(event, Exited):
                self._suggester.tell(self._search.trials[event.number])
        self._store.sync()

    def _pause(self) -> None:
        """Stops what runs and journals nothing of how it ends: these trials begin again when the search goes on."""
        running = {trial.number for trial in self._search.unfinished} - set(self._to_restart)
        for number in running:
            self._launcher.stop(number, GRACE_S)
        hurried = False
        while running:
            if self._interruptions() > 1 and not hurried:
                hurried = True
                for number in running:
                    self._launcher.stop(number, 0.0)
            running -= {event.number for event in self._launcher.poll(POLL_S) if isinstance(event, Exited)}

    def _finish(self, end: End) -> End:
        """Stops what still runs (a cluster would let it run on; katib.md 10, B10) and closes the journal."""
        for trial in self._search.unfinished:
            self._record(Stopping(self._clock.now(), trial.number, end.reason))
            if trial.number in self._to_restart:
                self._record(Exited(self._clock.now(), trial.number, None, end.reason))
            else:
                self._launcher.stop(trial.number, GRACE_S)
        while self._search.unfinished:
            if self._interruptions():
                for trial in self._search.unfinished:
                    self._launcher.stop(trial.number, 0.0)
            self._poll(POLL_S)
        self._record(Ended(self._clock.now(), end.succeeded, end.reason, end.message))
        return end

    def _record(self, event: Event) -> None:
        """Journal first, then memory, then whoever watches."""
        self._store.append(event)
        self._search.apply(event)
        if self._watch is not None:
            self._watch(event, self._search)
