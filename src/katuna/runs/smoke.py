"""One shortened trial at each of a few corners of the space, really run, before a night is spent on all of it."""

from __future__ import annotations

import contextlib
import copy
import math
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from katuna.errors import InputRefused
from katuna.manifest.experiment import Experiment, Manifest, Objective, Parameter
from katuna.metric_line import number
from katuna.runs import conduct
from katuna.runs.journal import Journal
from katuna.runs.plan import Plan
from katuna.runs.run import Run, files_of
from katuna.search.contracts import Launcher, LaunchEvent, NoSuggestion, Suggestion, TrialRequest
from katuna.search.engine import Watcher
from katuna.search.trials import Assignments, Trial, TrialState
from katuna.trees import plain

LAST_LINES = 5

TIMED_OUT = "DeadlineExceeded"

_SHELLS = ("sh", "bash", "dash", "ash", "zsh", "ksh")

_PASSED_ON = re.compile(r"\$(\{?[@*1-9])")
"""How a shell's script names its arguments."""


@dataclass(frozen=True)
class Shortening:
    """What the trials of a smoke test are given beside their job: `arguments` for the container that trains, and a deadline."""

    arguments: tuple[str, ...] = ()
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        if self.timeout_s is not None and self.timeout_s < 1:
            raise InputRefused(
                f"--timeout: {self.timeout_s:g} s is too short: a job's deadline is in whole seconds; give 1s or more"
            )

    def apply(self, manifest: Manifest, container: str) -> dict[str, Any]:
        """The job, shortened. The arguments come last, where those of most programs win."""
        changed = copy.deepcopy(dict(manifest))
        for each in _containers(changed):
            if self.arguments and each["name"] == container:
                # Kubernetes reads `$(NAME)` in arguments; `$$` is a dollar.
                each["args"] = [*(each.get("args") or []), *(text.replace("$", "$$") for text in self.arguments)]
        if self.timeout_s is not None:
            holder = changed["spec"].setdefault("runPolicy", {}) if changed["kind"] == "PyTorchJob" else changed["spec"]
            own, seconds = holder.get("activeDeadlineSeconds"), math.ceil(self.timeout_s)
            holder["activeDeadlineSeconds"] = seconds if own is None else min(own, seconds)
        return changed


@dataclass(frozen=True)
class Corner:
    """One corner's outcome. `fine`: it came to a value and did not crash; a trial that the smoke test's own deadline ended is
    fine when it had printed its metric by then."""

    trial: Trial
    value: float | None
    fine: bool
    last_lines: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """The trial's, or TimedOut where the deadline has ended it."""
        return "TimedOut" if self.trial.reason == TIMED_OUT else self.trial.state.value


def corners(experiment: Experiment) -> list[Assignments]:
    """The fewest points that hold, in one all least and in one all greatest values, and every choice of every list."""
    most = max([2, *(len(parameter.choices) for parameter in experiment.parameters)])
    points = [{each.name: _at(each, place) for each in experiment.parameters} for place in range(most)]
    return [MappingProxyType(point) for index, point in enumerate(points) if point not in points[:index]]


def _at(parameter: Parameter, place: int) -> str:
    """The value of a parameter in the place-th corner: least, greatest, then the rest of a list, then these two by turns."""
    if parameter.is_numeric:
        return parameter.text(parameter.bounds[place % 2])
    values = list(dict.fromkeys(parameter.choices))
    numbers = {text: number(text) for text in values}
    if None not in numbers.values():
        values.sort(key=float)
    ordered = [values[0], *values[-1:], *values[1:-1]]
    return ordered[place if place < len(values) else place % 2]


def smoke(
    planned: Plan,
    shortening: Shortening,
    *,
    keep: bool = False,
    interruptions: Callable[[], int] = lambda: 0,
    watch: Watcher | None = None,
) -> tuple[list[Corner], Path | None]:
    """Runs the corners, as many at a time as the Experiment says, and returns them with the run folder, if that is kept.

    It lies in the system's place for temporary files and is removed unless `keep` or a corner is not fine. Corners that an
    interruption left without an end are not returned. Raises InputRefused when the trials cannot run here.
    """
    conduct.preflight(planned)
    test = _of_corners(planned)
    container = planned.experiment.template.primary_container
    _check_reach(shortening, conduct.first_trials(planned, 1)[0][2], container)
    home = Path(tempfile.mkdtemp(prefix="katuna-smoke-"))
    kept = keep
    try:
        folder, _ = conduct.make_run(test, home)
        files = files_of(test.options.local, folder, Run(folder, test).code)
        launcher = conduct.launcher_for(test, folder.trial, files)
        shortened = _Shortened(launcher, lambda manifest: shortening.apply(manifest, container))
        with folder.locked(), contextlib.closing(Journal(folder.journal)) as store:
            suggester = _Corners(corners(test.experiment))
            conduct.engine(test, shortened, store, None, interruptions, watch, suggester).run()
        run = Run(folder, test)
        ended = [trial for trial in run.trials if trial.state.is_final]
        found = [_with_lines(outcome(trial, run.experiment.objective, shortening), run) for trial in ended]
        kept = keep or not all(corner.fine for corner in found)
        return found, run.path if kept else None
    finally:
        if not kept:
            shutil.rmtree(home, ignore_errors=True)


def _of_corners(planned: Plan) -> Plan:
    """The same search without its budget, goal, early stopping and whatever it begins with: nothing ends it but its points."""
    experiment = replace(
        planned.experiment,
        max_trials=None,
        max_failed=None,
        early_stopping=None,
        objective=replace(planned.experiment.objective, goal=None),
    )
    options = replace(planned.options, tries=(), let_running_finish=False, keep=None)
    return replace(planned, experiment=experiment, options=options, taken=())


def _check_reach(shortening: Shortening, manifest: Manifest, container: str) -> None:
    """Raises InputRefused where the arguments would end at a shell that passes nothing on."""
    for each in _containers(manifest):
        words = [*(each.get("command") or []), *(each.get("args") or [])]
        place = script_place(words)
        if not shortening.arguments or each["name"] != container or place is None:
            continue
        # The word after the script is its $0, so the first argument needs one before it.
        if not (_PASSED_ON.search(words[place]) and place + 1 < len(words)):
            raise InputRefused(
                f"--arg {shortening.arguments[0]}: the container runs `{' '.join(words[:place])}`, which passes no argument on to the "
                'program; end its text in `"$@"` and add one more word after it, or leave --arg out'
            )


def script_place(words: Sequence[str]) -> int | None:
    """Where the script stands in the words of a shell with -c, alone or among other short options; None for another command."""
    if not words or Path(words[0]).name not in _SHELLS:
        return None
    place, has_script = 1, False
    while place < len(words) and words[place][:1] in ("-", "+") and words[place] not in ("-", "--"):
        word = words[place]
        short = not word.startswith("--")
        has_script = has_script or (short and word.startswith("-") and "c" in word)
        # Each o or O takes a word more, as --rcfile does.
        place += 1 + (sum(map(word.count, "oO")) if short else word in ("--rcfile", "--init-file"))
    place += place < len(words) and words[place] in ("-", "--")
    return place if has_script and place < len(words) else None


def _containers(manifest: Manifest) -> Iterator[dict[str, Any]]:
    spec = manifest["spec"]
    replicas = spec["pytorchReplicaSpecs"].values() if manifest["kind"] == "PyTorchJob" else [spec]
    for replica in replicas:
        yield from replica["template"]["spec"]["containers"]


def outcome(trial: Trial, objective: Objective, shortening: Shortening) -> Corner:
    """What has become of a trial that has ended."""
    printed = number(trial.summary(objective.metric).pick(objective.strategy))
    in_time = trial.reason != TIMED_OUT or shortening.timeout_s is None
    return Corner(trial, printed, fine=printed is not None and (trial.state is TrialState.SUCCEEDED or not in_time))


def _with_lines(corner: Corner, run: Run) -> Corner:
    return corner if corner.fine else replace(corner, last_lines=_last_lines(run.folder.log(corner.trial.name)))


def _last_lines(log: Path) -> tuple[str, ...]:
    with contextlib.suppress(OSError), plain(log) as file:
        file.seek(max(0, file.seek(0, 2) - 65536))
        lines = file.read(65536).decode(errors="replace").splitlines()
        return tuple([line for line in lines if line.strip()][-LAST_LINES:])
    return ()


class _Corners:
    """A Suggester that gives the points of a list and then no more."""

    def __init__(self, points: Sequence[Assignments]) -> None:
        self._points = points

    def learn(self, assignments: Assignments, value: float) -> None:
        del assignments, value

    def ask(self, number: int) -> Suggestion | NoSuggestion:
        return Suggestion(self._points[number]) if number < len(self._points) else NoSuggestion.EXHAUSTED

    def restore(self, number: int, suggestion: Suggestion) -> None:
        del number, suggestion

    def tell(self, trial: Trial) -> None:
        del trial


class _Shortened:
    """A Launcher whose trials get the job that `change` makes of theirs."""

    def __init__(self, launcher: Launcher, change: Callable[[Manifest], Manifest]) -> None:
        self._launcher = launcher
        self._change = change

    def start(self, request: TrialRequest) -> None:
        self._launcher.start(replace(request, manifest=self._change(request.manifest)))

    def attach(self, trial: Trial) -> bool:
        return self._launcher.attach(trial)

    def poll(self, timeout_s: float) -> Sequence[LaunchEvent]:
        return self._launcher.poll(timeout_s)

    def stop(self, number: int, grace_s: float) -> None:
        self._launcher.stop(number, grace_s)

    def close(self, *grace_s: float) -> None:
        self._launcher.close(*grace_s)
