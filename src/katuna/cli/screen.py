"""What a person sees while a search runs: a live view on a terminal, one plain line an event anywhere else."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO, cast

from katuna.cli.files import surroundings
from katuna.cli.findings import lines
from katuna.cli.output import figure, heard, say
from katuna.cli.statusline import Stdout
from katuna.clock import SystemClock
from katuna.errors import Finding
from katuna.manifest.experiment import Experiment
from katuna.search.trials import Event, Exited, Noted, Reported, Resumed, Search, Started, Trial, TrialState, best_trial, ranking
from katuna.text import duration, printable

if TYPE_CHECKING:
    from katuna.runs.run import Run
    from katuna.search.engine import Watcher

PLURALS = {
    TrialState.SUCCEEDED: "succeeded",
    TrialState.EARLY_STOPPED: "stopped early",
    TrialState.FAILED: "failed",
    TrialState.METRICS_UNAVAILABLE: "without metrics",
    TrialState.KILLED: "stopped",
}


def say_findings(findings: Iterable[Finding]) -> None:
    """Notes and warnings of the input, on stderr."""
    for line in lines(list(findings)):
        say(line, err=True)


def screen_for(stop: object, stream: TextIO | None = None) -> Screen:
    """A dumb terminal cannot be drawn on: it gets the plain lines too."""
    drawable = (stream or sys.stdout).isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")
    return LiveScreen(stop) if drawable else Screen()


class Screen:
    """What shows a run to a person, as plain lines: a context in which something may be drawn. Subclasses show the events otherwise."""

    def __init__(self) -> None:
        self._run: Run | None = None
        self._read = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        pass

    @property
    def has_seen(self) -> bool:
        """Whether a run has begun before it."""
        return self._run is not None

    def watch(self, run: Run) -> Watcher:
        """The introduction, and then what takes the events."""
        self._run = run
        self._begin(run)
        return self.take

    def _begin(self, run: Run) -> None:
        for line in introduction(run):
            self.say(line)

    def say(self, line: str) -> None:
        self._read = self._read and heard(f"{printable(line)}\n")

    def look(self) -> None:
        """Called a few times a second. Nothing grows between events but what a live view draws by itself."""

    def take(self, event: Event, search: Search) -> None:
        line = self.line(event, search)
        if line:
            self.say(line)

    def line(self, event: Event, search: Search) -> str:
        """One line for an event, or "" for one that is not worth a line."""
        match event:
            case Resumed():
                again = f"; {len(event.restarted)} begin again" if event.restarted else ""
                return f"resumed: {search.finished} trials done before{again}"
            case Started():
                trial = search.trials[event.number]
                retry = f" (attempt {event.attempt})" if event.attempt > 1 else ""
                return f"trial {trial.number} started{retry}: {trial.name}  {assignments(trial)}"
            case Noted():
                return f"trial {event.number}: {event.text}"
            case Exited():
                return ended_line(search.trials[event.number], search)
            case _:
                return ""

    def closing_words(self, run: Run) -> None:
        for line in closing(run):
            self.say(line)


def introduction(run: Run) -> list[str]:
    """What is about to happen, in few lines."""
    from katuna.runs.conduct import network

    experiment = run.experiment
    objective = experiment.objective
    goal = "" if objective.goal is None else f" to {objective.goal:g}"
    limit = "no limit of trials" if experiment.max_trials is None else f"{experiment.max_trials} trials"
    aim = f"{objective.type.value} {objective.metric}{goal} by {experiment.algorithm}"
    overrides = run.options.overrides
    return [
        f"{run.name}: {aim}, {limit}, {experiment.parallel_trials} at a time, seed {run.opened.seed}",
        *([f"other than the file says: {' '.join(overrides)}"] if overrides else []),
        *surroundings(run, "work/ in the trial's folder", lambda: network(run.plan)),
        f"run folder {run.path}",
    ]


def assignments(trial: Trial) -> str:
    return " ".join(f"{name}={value}" for name, value in trial.assignments.items())


def ended_line(trial: Trial, search: Search) -> str:
    took = duration(trial.duration_s)
    value = trial.value(search.objective)
    if value is not None:
        best = search.best
        star = "  stopped early" if trial.state is TrialState.EARLY_STOPPED else ""
        star += "  best so far" if best is not None and best.number == trial.number else ""
        remark = f"; {trial.remark}" if trial.remark else ""
        return f"trial {trial.number} {search.objective.metric}={figure(value)} in {took}{star}{remark}"
    return f"trial {trial.number} {PLURALS.get(trial.state, trial.state.value)}: {trial.remark or trial.reason}"


def tally(search: Search) -> str:
    """`9 succeeded, 1 failed`."""
    counts = search.counts
    return ", ".join(f"{counts[state]} {word}" for state, word in PLURALS.items() if counts[state]) or "no trial ended"


def closing(run: Run) -> list[str]:
    """The end: outcome, the five best trials, what to do next."""
    search = run.search
    assert search.ended is not None
    outcome = "Succeeded" if search.ended.succeeded else "Failed"
    lines = ["", f"{outcome}: {search.ended.message} ({tally(search)})"]
    best = ranking(search.trials.values(), search.objective)[:5]
    if not best:
        return [*lines, *no_best(run)]
    lines.append(f"best {search.objective.metric}:")
    width = max(len(figure(trial.value(search.objective))) for trial in best)
    lines += [f"  {figure(trial.value(search.objective)).rjust(width)}  {trial.name}  {assignments(trial)}" for trial in best]
    return [
        *lines,
        f"train the best again   katuna best {run.name} -o command",
        f"look at the search     katuna report {run.name}",
        f"everything lies in     {run.path}",
    ]


def no_best(run: Run) -> list[str]:
    """No trial has a value: say why, from the last one that says anything."""
    ended = [trial for trial in run.trials if trial.state.is_final]
    why = [f"no trial came to a value of {run.experiment.objective.metric}"]
    if ended:
        last = ended[-1]
        why += [
            f"the last, trial {last.number}: {last.remark or last.reason}",
            f"its output             katuna logs {run.folder.handle}/{last.name}",
        ]
    return [*why, f"everything lies in     {run.path}"]


class LiveScreen(Screen):
    """A table of what runs, with the best so far and the time left, redrawn in place; what has ended scrolls by above it."""

    def __init__(self, stop: object) -> None:
        super().__init__()
        from rich.console import Console
        from rich.live import Live

        self._stop = stop
        self._clock = SystemClock()
        self._trials: Sequence[Trial] = ()
        self._last: dict[int, str] = {}
        self._console = Console(file=cast("TextIO", Stdout()), highlight=False, markup=False, emoji=False)
        self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._live.stop()

    def say(self, line: str) -> None:
        self._console.print(printable(line), soft_wrap=True)

    def take(self, event: Event, search: Search) -> None:
        # The picture is drawn in a thread of rich's: it gets a list that nobody changes any more.
        self._trials = tuple(search.trials.values())
        match event:
            case Reported():
                latest = {report.metric: f"{report.metric}={report.value}" for report in event.reports}
                self._last[event.number] = " ".join(latest.values())
            case Exited():
                self._last.pop(event.number, None)
                super().take(event, search)
            case Resumed() | Noted():
                super().take(event, search)

    def _render(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        trials = self._trials
        if not trials or self._run is None:
            return Text("")
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=True, header_style="bold")
        for heading in ("trial", "for", "last report", "parameters"):
            table.add_column(heading, no_wrap=True, overflow="ellipsis")
        now = self._clock.now()
        for trial in trials:
            if not trial.state.is_final:
                since = duration(now - trial.started_at) if trial.started_at else "waiting"
                cells = (str(trial.number), since, self._last.get(trial.number, ""), assignments(trial))
                table.add_row(*(Text(printable(cell)) for cell in cells))
        return Group(Text(""), Text(printable(self._headline(self._run.experiment, trials, now)), style="bold"), table)

    def _headline(self, experiment: Experiment, trials: Sequence[Trial], now: float) -> str:
        done = sum(trial.state.is_final for trial in trials)
        words = [f"{done} done" if experiment.max_trials is None else f"{done}/{experiment.max_trials} done"]
        best = best_trial(trials, experiment.objective)
        if best is not None:
            words.append(f"best {experiment.objective.metric}={figure(best.value(experiment.objective))} (trial {best.number})")
        left = time_left(trials, experiment.max_trials, experiment.parallel_trials, now)
        if left is not None:
            words.append(f"about {duration(left)} left")
        if self._stop:
            words.append("stopping the running trials; Ctrl-C again ends them at once")
        return "  ·  ".join(words)


def time_left(trials: Sequence[Trial], max_trials: int | None, parallel: int, now: float) -> float | None:
    """Seconds until the last trial ends if the rest take as long as the ended ones did on average; None when nobody can say."""
    took = [trial.duration_s for trial in trials if trial.duration_s is not None]
    if max_trials is None or not took:
        return None
    mean = sum(took) / len(took)
    running = [max(0.0, mean - (now - trial.started_at)) for trial in trials if trial.started_at and not trial.state.is_final]
    rounds = -(-max(0, max_trials - len(trials)) // parallel)
    return max([0.0, *running]) + mean * rounds
