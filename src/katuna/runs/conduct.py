"""Puts spec, suggester, launcher and store together: from files to a search that runs, and from a run folder to one that goes on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from katuna.clock import SystemClock
from katuna.dataset import check_same
from katuna.errors import ClusterRefused, ClusterUnreachable, FilesMixed, InputRefused, refuse_all
from katuna.manifest.dump import to_yaml
from katuna.manifest.experiment import Experiment, Manifest, ObjectiveType
from katuna.manifest.job import MASTER_PORT
from katuna.manifest.render import render
from katuna.runs import journal, rundir
from katuna.runs.code import keep
from katuna.runs.on_cluster import OnCluster, leave, started_there
from katuna.runs.plan import PathLike, Plan, RunOptions, part, plan_job, read_experiment, read_sources
from katuna.runs.run import Run, Training, files_of, opened, versions
from katuna.runs.rundir import RunDir
from katuna.runs.snapshot import Which, in_force, taking, todays
from katuna.search.budget import check_edit, edited, put_off
from katuna.search.known_points import Taken, checked_tries
from katuna.search.trials import Assignments, Edited, Ended, Event, Exited, Opened, Search, Trial, fold, name_of_trial, ranking

if TYPE_CHECKING:
    from katuna.launch.local import LocalLauncher
    from katuna.launch.plan import Planned
    from katuna.launch.workspace import Files
    from katuna.search.contracts import Launcher, Store, Suggester
    from katuna.search.engine import Engine, Watcher


def plan(
    paths: Sequence[PathLike],
    *,
    options: RunOptions | None = None,
    name: str | None = None,
    seed: int | None = None,
    warm_start: Sequence[PathLike] = (),
    home: Path | None = None,
) -> Plan:
    """Reads and checks everything that can be checked before a trial runs.

    `name` picks one of several Experiments; `seed` overrides the file's `random_state`; `warm_start` are runs (in `home`) or CSV
    files whose results the search begins with. Raises SpecRefused with all findings of all files, or InputRefused for options
    that the Experiment cannot be run with.
    """
    options = options or RunOptions()
    options = replace(options, local=replace(options.local, cwd=str(options.local.here("."))))
    sources = read_sources(paths)
    loaded, experiment = read_experiment(sources, options, name)
    if options.keep is not None and experiment.algorithm == "pbt":
        raise InputRefused(f"--keep best:{options.keep}: pbt begins trials with the checkpoints of others; leave --keep out")
    options = replace(options, tries=checked_tries(experiment, options.tries))
    taken: tuple[Taken, ...] = ()
    if warm_start:
        from katuna.runs.warm_start import taken_from

        taken = taken_from(experiment, [str(source) for source in warm_start], home)
    planned = Plan(sources, loaded, options, seed_of(experiment, loaded.seed) if seed is None else seed, experiment, taken)
    _check_something_left(planned)
    return planned


def seed_of(experiment: Experiment, files: int | None) -> int:
    """The seed that the Experiment writes, else the file's, else a new one."""
    from katuna.search.draws import written_seed

    seeds = (written_seed(experiment), files, secrets.randbelow(2**31))
    return next(seed for seed in seeds if seed is not None)


def _check_something_left(planned: Plan) -> None:
    """Raises InputRefused where every point of the space is known already."""
    experiment, known = planned.experiment, planned.known
    if len(known) < experiment.space_size or planned.options.tries or first_trials(planned, 1):
        return
    pick = min if experiment.objective.type is ObjectiveType.MINIMIZE else max
    best = pick(known, key=lambda each: each.value)
    point = " ".join(f"{name}={text}" for name, text in best.assignments.items())
    raise InputRefused(
        f"--warm-start: all {int(experiment.space_size)} points of the space are known already, and {experiment.algorithm} has none "
        f"left to try; the best is {experiment.objective.metric}={best.value:g} at {point} ({best.source})"
    )


def first_trials(planned: Plan, count: int) -> list[tuple[str, Assignments, Manifest]]:
    """(name, assignments, rendered job) of the first trials, as they will be asked before any result is known."""
    from katuna.search.contracts import NoSuggestion, Suggestion
    from katuna.search.suggest import suggester_for

    suggester = suggester_for(planned.experiment, planned.seed)
    for known in planned.known:
        suggester.learn(known.assignments, known.value)
    tries = planned.tries
    trials = []
    most = planned.experiment.max_trials
    for number in range(count if most is None else min(count, most)):
        if number < len(tries):
            point: Suggestion | NoSuggestion = Suggestion(tries[number])
            suggester.restore(number, Suggestion(tries[number]))
        else:
            point = suggester.ask(number)
        if isinstance(point, NoSuggestion):
            break
        name = name_of_trial(planned.experiment, planned.seed, number)
        trials.append((name, point.assignments, render(planned.experiment, name, point.assignments)))
    return trials


def tune(
    *paths: PathLike,
    experiment: str | None = None,
    seed: int | None = None,
    timeout_s: float | None = None,
    options: RunOptions | None = None,
    warm_start: Sequence[PathLike] = (),
    home: PathLike | None = None,
    watch: Watcher | None = None,
) -> Run:
    """Runs the search of an Experiment file to its end and returns the run; prints nothing.

    `paths` are the Experiment and, where its template is kept in one, the ConfigMap; `experiment` picks one of several.
    `warm_start` are runs or CSV files whose results the search begins with. `home` is where runs are kept, else KATUNA_HOME or
    `runs`. `watch(event, search)` is called with each event as it happens.
    Raises SpecRefused and InputRefused before anything runs. A KeyboardInterrupt stops the trials; `katuna resume` goes on.
    """
    here = None if home is None else Path(home)
    planned = plan(paths, options=options, name=experiment, seed=seed, warm_start=warm_start, home=here)
    return start(
        planned,
        timeout_s=timeout_s,
        home=here,
        watch=None if watch is None else lambda _: watch,
    )


def train(
    *paths: PathLike,
    options: RunOptions | None = None,
    home: PathLike | None = None,
    watch: Watcher | None = None,
) -> Training:
    """Runs the job of the files to its end and returns its run; prints nothing.

    `paths` are the job and what it refers to (ConfigMaps, Secrets, a runtime). `home` and `watch` are as in `tune`.
    Raises SpecRefused and InputRefused before anything runs. A KeyboardInterrupt ends the replicas; `katuna resume` goes on.
    """
    here = None if home is None else Path(home)
    run = start(plan_job(paths, options), home=here, watch=None if watch is None else lambda _: watch)
    assert isinstance(run, Training)
    return run


def start(
    planned: Plan,
    *,
    timeout_s: float | None = None,
    home: Path | None = None,
    interruptions: Callable[[], int] = lambda: 0,
    watch: Callable[[Run], Watcher] | None = None,
    look: Callable[[], None] = lambda: None,
) -> Run:
    """Makes the run folder and runs the search or training to its end, or until it is interrupted. Returns the run either way.
    `look` is called a few times a second."""
    preflight(planned)
    folder, begin = make_run(planned, home)
    digest = in_force(begin)
    kind = Training if planned.experiment.is_training else Run
    with folder.locked():
        _run(kind(folder, planned, digest), begin, timeout_s, interruptions, watch, look)
    return kind(folder, planned)


def make_run(planned: Plan, home: Path | None = None) -> tuple[RunDir, deque[Event]]:
    """A new run folder with the code as it is now, and the events that its journal begins with. Raises InputRefused when it cannot
    be made."""
    experiment, files = planned.experiment, _as_given(planned)
    as_run = "as-run.yaml" if experiment.is_training else "defaulted.yaml"
    home, options = home or rundir.runs_home(), planned.options
    digest = hashlib.sha256(b"".join(files.values())).hexdigest()
    with taking(options.local, home, options.secrets) as code:
        now = time.time()
        opened = Opened(now, experiment.name, planned.seed, digest, versions(), options.as_json(), code.digest, code.why_not)
        begin: deque[Event] = deque([opened, *planned.known])
        files |= {as_run: to_yaml(experiment.manifest).encode(), "journal.jsonl": journal.begin(begin)}
        return rundir.create(experiment.name, {**code.files, **files}, home), begin


def resume(
    run: str | None = None,
    *,
    counts: Mapping[str, int] | None = None,
    timeout_s: float | None = None,
    home: Path | None = None,
    drop_after: int | None = None,
    code: Which = "kept",
    interruptions: Callable[[], int] = lambda: 0,
    watch: Callable[[Run], Watcher] | None = None,
    look: Callable[[], None] = lambda: None,
) -> Run:
    """Goes on with a search or a training that was interrupted or killed; one that has ended is returned as it is.

    A search that its --timeout has ended goes on too, and what this stopped begins again; so does a training that was suspended.
    Every replica of a training begins anew in the same folder, where trainers find their checkpoints.

    `counts` sets parallelTrialCount, maxTrialCount or maxFailedTrialCount anew, as an edit of the Experiment would on a cluster:
    a search that has ended goes on where Katib's rules let it. `drop_after` keeps that many lines of a damaged journal. With `code`
    "new" trials read the files as they are now, else as they were. Raises RunNotFound, RunLocked, JournalDamaged, and InputRefused
    when the counts cannot be set, the code is too large, the dataset is another by now or the trials can no longer run here: then
    nothing has been changed.
    """
    folder = rundir.find(run, home)
    with folder.locked():
        if drop_after is not None:
            journal.drop_after(folder.journal, drop_after)
        found = opened(folder)
        options, events, changed = found.options, deque(found.events), _changed(found, counts or {})
        again = put_off(found.search)
        if isinstance(events[-1], Ended) and not changed and not again:
            return found
        taken = todays(options.local, folder.path.parent, options.secrets) if code == "new" else None
        digest = found.code_digest if taken is None else taken.digest
        edit = Edited(time.time(), changed, digest if digest != found.code_digest else "")
        is_edited = bool(changed or edit.code or again)
        if is_edited:
            events.append(edit)
        edits = fold((event for event in events if isinstance(event, Edited)), found.plan.experiment.objective)
        planned = replace(found.plan, experiment=edited(found.plan.experiment, edits))
        check_same(options.local.data, options.local.data_digest)
        preflight(planned, None if taken else files_of(options.local, folder, found.code))
        if taken is not None:
            keep(taken, folder)
        found = type(found)(folder, planned, digest)
        _run(found, events, timeout_s, interruptions, watch, look, edit if is_edited else None)
    return type(found)(folder)


def _changed(found: Run, counts: Mapping[str, int]) -> dict[str, int]:
    """Those that change the budget. Raises InputRefused where they, or a --timeout that has ended the search, may not be."""
    spec = found.experiment.manifest["spec"]
    changed = {name: count for name, count in counts.items() if spec.get(name) != count}
    if changed or (put_off(found.search) and not found.folder.is_training):
        check_edit(found.plan.experiment, found.search, changed)
    return changed


def network(planned: Plan) -> str:
    """What a person is told of who reaches the trials' processes, as `launch.plan.reach` says it."""
    from katuna.launch.plan import reach
    from katuna.manifest.build import job_from_manifest

    experiment, local = planned.experiment, planned.options.local
    manifests = [manifest for _, _, manifest in first_trials(planned, 1)]
    primary, beside = experiment.template.primary_container, planned.loaded.references
    jobs = [job_from_manifest(each, primary, beside, experiment.name, local.pass_env) for each in manifests]
    return "".join(reach(job, local, os.environ) for job in jobs)


def preflight(planned: Plan, files: Files | None = None) -> None:
    """Raises InputRefused when the first trial, or the same with any other choice of a parameter, could not start on this machine.

    `files` know the code that the run keeps, where there is a run."""
    from katuna.search.contracts import TrialRequest

    requests = []
    for name, point, job in first_trials(planned, 1):
        requests.append(TrialRequest(0, name, job))
        for parameter in planned.experiment.parameters:
            for choice in parameter.choices:
                other = render(planned.experiment, name, {**point, parameter.name: choice})
                requests.append(TrialRequest(0, name, other))
    if planned.options.cluster is not None:
        refuse_all(OnCluster(planned).preflight(requests[:1]))
        return
    refuse_all((finding.message, finding.hint) for finding in local_launcher(planned, Path, files).preflight(requests))


def _as_given(planned: Plan) -> dict[str, bytes]:
    """The input as the run folder keeps it: the file of the Experiment or job, and the other files, byte for byte. Secrets are
    left out of the files that hold them."""
    files: dict[str, bytes] = {}
    own = "job.yaml" if planned.experiment.is_training else "experiment.yaml"
    for number, source in enumerate(planned.sources):
        kept = part(source, secrets=False) if str(Path(source.name).absolute()) in planned.options.secrets else source
        if kept:
            files[own if source.name == planned.loaded.file else f"beside/{number:03d}-{Path(source.name).name}"] = (
                kept.text.encode()
            )
    return files


class _Replayed:
    """A run's journal whose events have been read already: its replay gives these, and lets go of each."""

    def __init__(self, store: journal.Journal, events: deque[Event]) -> None:
        self._events = events
        self.append = store.append
        self.sync = store.sync

    def replay(self) -> Iterator[Event]:
        while self._events:
            yield self._events.popleft()


def _run(
    run: Run,
    events: deque[Event],
    timeout_s: float | None,
    interruptions: Callable[[], int],
    watch: Callable[[Run], Watcher] | None,
    look: Callable[[], None],
    edit: Edited | None = None,
) -> None:
    """Runs the search or training whose journal holds `events`; `edit`, the last of them, is to be written first."""
    from katuna.launch.storage import pausing

    with pausing(run.folder.path), contextlib.closing(journal.Journal(run.folder.journal)) as store:
        if edit is not None:
            store.append(edit)
        run.files = files = files_of(run.options.local, run.folder, run.code)
        watchers = [watch(run)] if watch is not None else []
        if run.options.keep is not None:
            watchers.append(_trimmer(run.folder, run.options.keep, lambda: store.sync(after_s=0)))

        def tell_all(event: Event, search: Search) -> None:
            for watcher in watchers:
                watcher(event, search)

        launcher = launcher_for(run.plan, run.folder.trial, files) if run.plan.options.cluster is None else started_there(run)
        end = engine(run.plan, launcher, _Replayed(store, events), timeout_s, interruptions, tell_all, look=look).run()
        if end and run.options.cluster and not run.experiment.is_training:
            with contextlib.suppress(ClusterRefused, ClusterUnreachable):
                leave(run, jobs=False)
        for own in run.folder.path.glob("trials/*/.own") if end else ():
            # Of trials that were stopped: to their launcher they might have begun again.
            with contextlib.suppress(FilesMixed):
                files.ended(own.parent)


def engine(
    planned: Plan,
    launcher: Launcher,
    store: Store,
    timeout_s: float | None = None,
    interruptions: Callable[[], int] = lambda: 0,
    watch: Watcher | None = None,
    suggester: Suggester | None = None,
    look: Callable[[], None] = lambda: None,
) -> Engine:
    """The loop for a plan, with all that its options say; `suggester` is the algorithm's unless given."""
    from katuna.search.engine import GRACE_S, Engine
    from katuna.search.stopping import stopper_for
    from katuna.search.suggest import suggester_for

    clock = SystemClock()
    return Engine(
        planned.experiment,
        suggester or suggester_for(planned.experiment, planned.seed),
        launcher,
        store,
        clock,
        stopper=stopper_for(planned.experiment),
        let_running_finish=planned.options.let_running_finish,
        tries=planned.tries,
        deadline=None if timeout_s is None else clock.elapsed() + timeout_s,
        interruptions=interruptions,
        watch=watch,
        look=look,
        grace_s=planned.job.grace_s if planned.experiment.is_training else GRACE_S,
    )


def launcher_for(planned: Plan, trial_dir: Callable[[str], Path], files: Files | None = None) -> Launcher:
    """What runs a plan's trials on this machine and reads their metrics; see `local_launcher`."""
    from katuna.runs.measured import measured

    return measured(local_launcher(planned, trial_dir, files), planned.experiment, trial_dir, SystemClock())


def local_launcher(planned: Plan, trial_dir: Callable[[str], Path], files: Files | None = None) -> LocalLauncher:
    """What runs a plan's trials on this machine; `trial_dir` gives a trial's folder by its name, `files` what each has to itself."""
    from katuna.launch.local import LocalLauncher
    from katuna.launch.warm.starter import WarmStarter
    from katuna.runs.measured import needs_of

    experiment = planned.experiment
    return LocalLauncher(
        trial_dir,
        experiment.template.primary_container,
        SystemClock(),
        needs=needs_of(experiment),
        options=planned.options.local,
        parallel=experiment.parallel_trials,
        beside=planned.loaded.references,
        starter=None if planned.options.local.cold else WarmStarter(),
        files=files,
        manifest="as-run.yaml" if experiment.is_training else "job.yaml",
    )


def containers(planned: Plan) -> Sequence[Planned]:
    """What each container of a training would run here, nothing made yet, with a mark for all that a Secret holds; the port is not yet
    a free one, and no GPU is leased."""
    from katuna.launch.devices import usable_cpus
    from katuna.launch.plan import Place, plan

    place = Place(Path("RUN"), planned.options.local, os.environ, {}, {}, {}, usable_cpus(), say=str)
    return plan(planned.job, place, (), MASTER_PORT)


def _trimmer(folder: RunDir, keep: int, on_disk: Callable[[], None]) -> Watcher:
    """Takes a trial's artefacts away when it has ended and is not among the best `keep`, or drops out of them; `on_disk` is called
    before, to have on disk that it has."""
    best: list[Trial] = []

    def trim(event: Event, search: Search) -> None:
        nonlocal best
        if not isinstance(event, Exited):
            return
        ended = search.trials[event.number]
        # After a resume the earlier trials are ranked anew; from then on only the newcomer can change the best.
        before = best or ranking((trial for trial in search.trials.values() if trial is not ended), search.objective)[:keep]
        best = ranking([*before, ended], search.objective)[:keep]
        on_disk()
        for trial in (ended, *before):
            if trial not in best:
                folder.trim(trial.name)

    return trim
