"""A launcher and the metrics of its trials, as one Launcher: what each trial reports is told before the end of its attempt."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from katuna.errors import FilesMixed, KatunaError, StoreFailed, is_shortage
from katuna.jobs.lifecycle import ContainerExited
from katuna.launch.needs import METRICS, Needs
from katuna.launch.storage import blame, store_failed
from katuna.manifest.experiment import Experiment
from katuna.metric_line import Report
from katuna.metrics.collect import Collecting, MetricSource
from katuna.search.contracts import CLOSE_GRACE_S, Clock, JobLauncher, Launcher, LaunchEvent, Output, TrialRequest
from katuna.search.trials import Exited, Reported, Started, Trial

LOOK_S = 0.1
"""How often growing logs are looked at."""


def needs_of(experiment: Experiment) -> Needs:
    """What each trial of the Experiment needs beside its job: places of its own for metrics and checkpoints, a port."""
    collecting = Collecting.of(experiment)
    checkpoints = experiment.settings.get("suggestion_trial_dir", "") if experiment.algorithm == "pbt" else ""
    return Needs(checkpoints, collecting.places, collecting.variables, collecting.python_path, collecting.port)


def measured(launcher: JobLauncher, experiment: Experiment, trial_dir: Callable[[str], Path], clock: Clock) -> Launcher:
    """The launcher with the Experiment's metrics; `trial_dir` gives a trial's folder by its name."""
    collecting = Collecting.of(experiment)

    def source(name: str, output: Output) -> MetricSource:
        return collecting.source(trial_dir(name) / METRICS, output.log, output.start)

    return Measured(launcher, source, trial_dir, clock, experiment.objective.metrics[0])


class _Measurement:
    """One trial between its start and its Exited: the reader of its latest attempt, and how it is to end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.source: MetricSource | None = None
        self.has_value = False
        self.is_stopping = False
        self.is_lost = False
        """Nothing of it is told any more: the machine failed, and the trial is not to blame."""
        self.unreadable = ""
        self._last_at = 0.0

    def at(self, moment: float) -> float:
        """The moment of an event, never before that of the event before it: containers and readers each look at the clock."""
        self._last_at = max(self._last_at, moment)
        return self._last_at

    def close(self) -> None:
        if self.source is not None:
            self.source.close()


class Measured:
    """Implements `contracts.Launcher` for a JobLauncher; see there. `source` opens the reader of an attempt, given the trial's name and
    its output. `objective` is the metric that a trial has no result without, "" where there is none."""

    def __init__(
        self,
        launcher: JobLauncher,
        source: Callable[[str, Output], MetricSource],
        trial_dir: Callable[[str], Path],
        clock: Clock,
        objective: str,
    ) -> None:
        self._launcher = launcher
        self._source = source
        self._trial_dir = trial_dir
        self._clock = clock
        self._objective = objective
        self._trials: dict[int, _Measurement] = {}
        self._failure: StoreFailed | FilesMixed | None = None

    def start(self, request: TrialRequest) -> None:
        self._trials[request.number] = _Measurement(request.name)
        self._launcher.start(request)

    def attach(self, trial: Trial) -> bool:
        runs = self._launcher.attach(trial)
        if runs:
            self._trials[trial.number] = _Measurement(trial.name)
        return runs

    def poll(self, timeout_s: float) -> Sequence[LaunchEvent]:
        """See `contracts.Launcher`. What had happened before a shortage comes first, StoreFailed with the next call."""
        give_up = time.monotonic() + timeout_s
        wait_s = 0.0
        while True:
            events = [] if self._failure else self._round(wait_s)
            if events:
                return events
            if self._failure:
                raise self._failure
            left_s = give_up - time.monotonic()
            if left_s <= 0:
                return []
            behind = any(trial.source and not trial.source.at_end for trial in self._trials.values())
            wait_s = 0.0 if behind else min(left_s, LOOK_S) if self._trials else left_s

    def stop(self, number: int, grace_s: float) -> None:
        trial = self._trials.get(number)
        if trial is not None and trial.source is not None and not trial.is_stopping:
            trial.source.hurry()
        if trial is not None:
            trial.is_stopping = True
        self._launcher.stop(number, grace_s)

    def close(self, grace_s: float = CLOSE_GRACE_S) -> None:
        self._launcher.close(grace_s)
        for trial in self._trials.values():
            trial.close()
        self._trials.clear()
        self._failure = None

    def _round(self, wait_s: float) -> list[LaunchEvent]:
        """One round: the events of the launcher, the values that trials have printed since, and the ends that waited for these."""
        events = [told for event in self._polled(wait_s) for told in self._told(event)]
        over = []
        for number, trial in list(self._trials.items()):
            output = self._launcher.output(number) if trial.source is not None else None
            if trial.source is not None and output is not None:
                events += self._read(number, trial, trial.source, output)
                if output.ended_at is not None and (trial.source.at_end or trial.is_stopping or trial.is_lost):
                    over.append(number)
        for number in over:
            self._launcher.was_read(number)
        if over:
            events += [told for event in self._polled(0.0) for told in self._told(event)]
        return events

    def _polled(self, wait_s: float) -> Sequence[LaunchEvent]:
        try:
            return self._launcher.poll(wait_s)
        except (StoreFailed, FilesMixed) as error:
            self._failure = self._failure or error
            return []

    def _read(self, number: int, trial: _Measurement, source: MetricSource, output: Output) -> Iterator[Reported]:
        """A bounded amount of what a trial has reported, to the last when its attempt has ended."""
        if trial.is_lost:
            return
        at = self._clock.now() if output.ended_at is None else output.ended_at
        try:
            reports: list[Report] = source.read()
            if output.ended_at is not None and source.at_end:
                # What was not read to its end ends in half a line.
                reports += source.finish()
        except (KatunaError, OSError) as error:
            self._unreadable(number, trial, error)
            return
        if reports:
            trial.has_value = trial.has_value or any(report.metric == self._objective for report in reports)
            yield Reported(trial.at(at), number, tuple(reports))

    def _unreadable(self, number: int, trial: _Measurement, error: Exception) -> None:
        """A trial whose metrics cannot be read has no result: it is ended, unless the machine is to blame."""
        folder = self._trial_dir(trial.name)
        trial.is_lost = True
        if isinstance(error, OSError) and is_shortage(error):
            self._failure = self._failure or store_failed(folder, error)
            return
        trial.unreadable = f"{error.filename or folder}: {error.strerror}" if isinstance(error, OSError) else str(error)
        self._launcher.stop(number, 0.0)

    def _told(self, event: LaunchEvent) -> Iterator[LaunchEvent]:
        trial = self._trials.get(event.number)
        if trial is None or (trial.is_lost and not trial.unreadable):
            return
        event = replace(event, at=trial.at(event.at))
        if isinstance(event, Started):
            self._open(trial, event)
        if not isinstance(event, Exited):
            yield event
            self._blame(trial, event)
            return
        del self._trials[event.number]
        trial.close()
        if trial.source is not None:
            event = replace(event, nearest=trial.source.nearest, warnings=trial.source.warnings)
        yield replace(event, reason="LogUnreadable", message=trial.unreadable) if trial.unreadable else event

    def _open(self, trial: _Measurement, event: Started) -> None:
        """The reader of a new attempt; what the one before it reported counts for nothing."""
        trial.close()
        trial.has_value = False
        output = self._launcher.output(event.number)
        assert output is not None, "a trial that has started has an output until was_read"
        try:
            trial.source = self._source(trial.name, output)
        except (KatunaError, OSError) as error:
            self._unreadable(event.number, trial, error)
            return
        if trial.is_stopping:
            trial.source.hurry()

    def _blame(self, trial: _Measurement, event: LaunchEvent) -> None:
        """A container that failed, or a trial without a result, where nothing can be written any more, is the disk's failure."""
        if not isinstance(event, ContainerExited) or event.code is None or trial.is_stopping:
            return
        if event.code == 0 and (trial.has_value or not self._objective):
            return
        who = f"trial {trial.name}" if self._objective else f"pod {event.pod}"
        try:
            blame(self._trial_dir(trial.name), who, event.message)
        except StoreFailed as error:
            self._failure = self._failure or error
            trial.is_lost = True
