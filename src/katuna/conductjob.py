"""Runs a job without a search: from files to a run folder in which all its replicas train, and from a folder to one that goes on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from katuna.clock import SystemClock
from katuna.dataset import check_same
from katuna.errors import InputRefused, refuse_all
from katuna.jobs import ContainerExited, ContainerStarted, JobEvent, JobOpened, JobReported, JobResumed
from katuna.launch.options import LocalOptions
from katuna.metrics.anyname import AnyNameTail
from katuna.run import PathLike, files_of, versions
from katuna.snapshot import Which, taking, todays
from katuna.spec.documents import flattened
from katuna.spec.dump import to_yaml
from katuna.spec.job import MASTER_PORT, job_from_manifest
from katuna.spec.loadjob import load_job
from katuna.spec.sources import read_source
from katuna.spec.yamltext import Source
from katuna.store import journal, rundir
from katuna.store.code import keep
from katuna.store.rundir import RunDir
from katuna.training import JobPlan, Training, TrainOptions, manifests

if TYPE_CHECKING:
    from katuna.launch.devices import Lease
    from katuna.launch.jobrun import JobRun
    from katuna.launch.meeting import Stores
    from katuna.launch.plan import Planned
    from katuna.launch.process import Starter
    from katuna.store.code import Code

Watcher = Callable[[Sequence[JobEvent | str]], None]
"""Called in each round with what was journalled in it, which may be nothing; a text is a remark for people."""

LOOK_S = 0.1
"""How often growing logs, and devices that others have, are looked at."""
CLOSE_GRACE_S = 10.0
"""What replicas have when this process is to end at once, as after a KeyboardInterrupt."""
SLOW_START_S = 1.0
"""After how long without a process a person is told what takes so long: the imports of the server of warm starts."""
UNRESPONSIVE_S = 20.0
"""What replicas get beyond the grace period before they are killed with their guards."""


def plan_job(paths: Sequence[PathLike], options: TrainOptions | None = None, *, as_cluster: bool = False) -> JobPlan:
    """Reads and checks everything that can be checked before a process starts. `as_cluster` lets fields pass that a cluster drops.

    Raises SpecRefused with all findings of all files, InputRefused for options that the job cannot be run with.
    """
    options = options or TrainOptions()
    sources = tuple(map(read_source, paths))
    planned = _planned(sources, options, as_cluster=as_cluster)
    secrets = [source for source in sources if _holds_secret(source)]
    if any(source.name == planned.loaded.file for source in secrets):
        raise InputRefused(
            f"{planned.loaded.file} holds the job and a Secret: the run folder keeps the job's file as it is, and no Secret; "
            f"move the Secret to a file of its own and give it with --values FILE"
        )
    return replace(planned, options=replace(options, secrets=tuple(str(Path(source.name).absolute()) for source in secrets)))


def _planned(sources: tuple[Source, ...], options: TrainOptions, *, as_cluster: bool = False) -> JobPlan:
    loaded = load_job(
        sources,
        options.name,
        pass_env=options.local.pass_env,
        nproc=options.nproc,
        changes=options.changes,
        as_cluster=as_cluster,
    )
    job = job_from_manifest(loaded.manifest, beside=loaded.beside, pass_env=options.local.pass_env)
    return JobPlan(sources, loaded, options, job)


def train(
    *paths: PathLike,
    options: TrainOptions | None = None,
    home: PathLike | None = None,
    watch: Callable[[Training], Watcher] | None = None,
) -> Training:
    """Runs the job of the files to its end and returns its run; prints nothing.

    `paths` are the job and what it refers to (ConfigMaps, Secrets, a runtime). `home` is where runs are kept, else KATUNA_HOME or
    `runs`. Raises SpecRefused and InputRefused before anything runs. A KeyboardInterrupt ends the replicas; `katuna resume` goes on.
    """
    return start(plan_job(paths, options), home=None if home is None else Path(home), watch=watch)


def start(
    planned: JobPlan,
    *,
    home: Path | None = None,
    interruptions: Callable[[], int] = lambda: 0,
    watch: Callable[[Training], Watcher] | None = None,
) -> Training:
    """Makes the run folder and runs the job to its end, or until it is interrupted. Returns the run either way."""
    preflight(planned)
    folder = make_run(planned, home)
    with folder.locked():
        _Conductor(Training(folder), planned, interruptions, watch).run()
    return Training(folder)


def resume(
    folder: RunDir,
    *,
    drop_after: int | None = None,
    code: Which = "kept",
    interruptions: Callable[[], int] = lambda: 0,
    watch: Callable[[Training], Watcher] | None = None,
) -> Training:
    """Goes on with a job that was interrupted, killed or suspended: every replica begins anew in the same folder, where trainers find
    their checkpoints. One that has ended is returned as it is. With `code` "new" they read the files as they are now, else as they
    were.

    Raises RunLocked, JournalDamaged, and InputRefused when the code is too large, the dataset is another by now or the job can no
    longer run here: then nothing has been changed.
    """
    with folder.locked():
        if drop_after is not None:
            journal.drop_after(folder.journal, drop_after)
        found = Training(folder)
        if found.state not in ("Running", "Suspended"):
            return found
        planned = _again(found)
        options = planned.options
        taken = todays(options.local, folder.path.parent, options.secrets) if code == "new" else None
        digest = found.code_digest if taken is None else taken.digest
        check_same(options.local.data, options.local.data_digest)
        preflight(planned, found.code if taken is None else None)
        if taken is not None:
            keep(taken, folder)
        resumed = JobResumed(time.time(), digest if digest != found.code_digest else "")
        _Conductor(Training(folder, digest), planned, interruptions, watch).run(resumed)
    return Training(folder)


def _again(found: Training) -> JobPlan:
    """What the run was started with, read anew; a job that was suspended is so no more."""
    options = found.options
    try:
        secrets = [_part(read_source(path), secrets=True) for path in options.secrets]
    except InputRefused as error:
        raise InputRefused(f"{error}; it was given with the job, and a Secret is not kept in the run folder") from error
    planned = _planned((*map(read_source, found.folder.sources), *filter(None, secrets)), options)
    return replace(planned, job=replace(planned.job, suspend=False)) if found.state == "Suspended" else planned


def preflight(planned: JobPlan, code: Code | None = None) -> None:
    """Raises InputRefused when the job could not start on this machine; `code` is what its run keeps, where there is one."""
    from katuna.launch.plan import preflight as problems

    kept = code.paths if code and planned.options.local.files != "shared" else ()
    refuse_all(problems(planned.job, planned.options.local, os.environ, kept=kept))


def containers(planned: JobPlan) -> Sequence[Planned]:
    """What each container would run here, nothing made yet, with a mark for all that a Secret holds; the port is not yet a free one,
    and no GPU is leased."""
    from katuna.launch.devices import usable_cpus
    from katuna.launch.plan import Place, plan
    from katuna.spec.plan import masked

    return plan(
        masked(planned.job), Place(Path("RUN"), planned.options.local, os.environ, {}, {}, {}, usable_cpus()), (), MASTER_PORT
    )


def make_run(planned: JobPlan, home: Path | None = None) -> RunDir:
    """A new run folder with the files as given (of one that holds a Secret, what else it holds) and the code as it is now. Raises
    InputRefused when it cannot be made."""
    files: dict[str, bytes] = {}
    for number, source in enumerate(planned.sources):
        secret = str(Path(source.name).absolute()) in planned.options.secrets
        kept = _part(source, secrets=False) if secret else source
        if kept:
            name = "job.yaml" if source.name == planned.loaded.file else f"beside/{number:03d}-{Path(source.name).name}"
            files[name] = kept.text.encode()
    digest = hashlib.sha256(b"".join(files.values())).hexdigest()
    home, options = home or rundir.runs_home(), planned.options
    with taking(options.local, home, options.secrets) as code:
        now = time.time()
        opened = JobOpened(now, planned.job.name, digest, versions(), options.as_json(), code.digest, code.why_not)
        files |= {"as-run.yaml": to_yaml(planned.loaded.manifest).encode(), "journal.jsonl": journal.begin([opened])}
        return rundir.create(planned.job.name, {**code.files, **files}, home)


class _Conductor:
    """Runs a job in its folder, journals what happens, and ends it when it is asked to."""

    def __init__(
        self,
        training: Training,
        planned: JobPlan,
        interruptions: Callable[[], int],
        watch: Callable[[Training], Watcher] | None,
    ) -> None:
        from katuna.launch.jobrun import release

        # Before anything of this run lies in memory: it takes away what an earlier one left there.
        release(training.folder.path.absolute())
        self._folder = training.folder
        self._planned = planned
        self._files = training.files = files_of(planned.options.local, training.folder, training.code)
        self._interruptions = interruptions
        self._watcher: Watcher = watch(training) if watch else lambda _: None
        self._heeded = 0
        self._clock = SystemClock()

    def run(self, resumed: JobResumed | None = None) -> None:
        from katuna.launch.meeting import Stores

        with contextlib.ExitStack() as stack:
            self._store = stack.enter_context(contextlib.closing(journal.Journal(self._folder.journal)))
            if resumed is not None:
                self._tell([resumed])
            lease = self._lease()
            if lease is None:
                return
            stack.callback(lease.close)
            starter = stack.enter_context(contextlib.closing(_starter(self._planned.options.local)))
            stack.callback(self._files.close)
            stores = stack.enter_context(contextlib.closing(Stores()))
            log = self._folder.path / "log"
            tail = AnyNameTail(log, _size(log))
            stack.callback(tail.close)
            job = self._job_run(lease, starter, stores)
            try:
                self._follow(job, tail)
            finally:
                _end(job, min(CLOSE_GRACE_S, self._planned.job.grace_s))

    def _lease(self) -> Lease | None:
        """The GPUs that the job asks for, once they are free; None when it is interrupted before."""
        from katuna.launch.devices import DevicePool, cuda_devices, lease_folder
        from katuna.launch.plan import gpus

        wanted = gpus(self._planned.job, self._planned.options.local)
        pool = DevicePool(cuda_devices(os.environ), lease_folder(os.environ))
        lease = pool.lease(wanted)
        if lease is None:
            self._tell([f"waiting for {wanted} GPU{'' if wanted == 1 else 's'} that other katuna processes have"])
        while lease is None and not self._interruptions():
            time.sleep(LOOK_S)
            lease = pool.lease(wanted)
        return lease

    def _job_run(self, lease: Lease, starter: Starter, stores: Stores) -> JobRun:
        from katuna.launch.jobrun import JobRun

        return JobRun(
            self._planned.job,
            self._folder.path.absolute(),
            options=self._planned.options.local,
            environ=os.environ,
            clock=self._clock,
            starter=starter,
            lease=lease,
            files=self._files,
            stores=stores,
            defaults={"PYTHONUNBUFFERED": "1"},
            extra={},
        )

    def _follow(self, job: JobRun, tail: AnyNameTail) -> None:
        from katuna.launch.process import await_any
        from katuna.launch.storage import blame

        slow_at = float("inf") if self._planned.options.local.cold else time.monotonic() + SLOW_START_S
        while True:
            events: list[JobEvent | str] = [*job.poll(), *job.remarks]
            job.remarks.clear()
            for event in events:
                if isinstance(event, ContainerExited) and event.reason == "Error":
                    blame(self._folder.path.absolute(), f"pod {event.pod}", event.message)
            if any(isinstance(event, ContainerStarted) for event in events):
                slow_at = float("inf")
            elif time.monotonic() > slow_at and not job.over:
                slow_at = float("inf")
                events.append("Python starts, once for all replicas: a few seconds (--cold: once for each)")
            reports = tail.read()
            if job.over:
                while not tail.at_end:
                    reports += tail.read()
                reports += tail.finish()
            # The log has every value; the journal has one of each name a look, however fast they come.
            latest = {report.metric: report for report in reports}
            told = [JobReported(self._clock.now(), tuple(latest.values()))] if latest else []
            self._tell([*told, *events])
            if job.over:
                return
            self._heed(job)
            await_any(job.filenos(), 0 if not tail.at_end else LOOK_S)

    def _tell(self, events: Sequence[JobEvent | str]) -> None:
        for event in events:
            if not isinstance(event, str):
                self._store.append(event)
        self._store.sync()
        self._watcher(events)

    def _heed(self, job: JobRun) -> None:
        """The first request to end gives the replicas their grace period, a second one none."""
        asked = self._interruptions()
        if asked > self._heeded:
            self._heeded = asked
            grace_s = self._planned.job.grace_s if asked == 1 else 0.0
            if grace_s:
                self._tell(["", f"ending the replicas, which have {grace_s:g} s; Ctrl-C again ends them at once"])
            job.stop(grace_s)


def _starter(options: LocalOptions) -> Starter:
    from katuna.launch.process import ColdStarter
    from katuna.launch.warm import WarmStarter

    return ColdStarter() if options.cold else WarmStarter()


def _end(job: JobRun, grace_s: float) -> None:
    """Whatever went wrong here, nothing that was started is left."""
    from katuna.launch.process import await_any

    if not job.over:
        job.stop(grace_s)
        give_up = time.monotonic() + grace_s + UNRESPONSIVE_S
        while not job.over and time.monotonic() < give_up:
            job.poll()
            await_any(job.filenos(), LOOK_S)
        job.kill()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _holds_secret(source: Source) -> bool:
    return bool(_documents(source, secrets=True))


def _part(source: Source, *, secrets: bool) -> Source | None:
    """A file's Secrets, or all else that is in it; None where there is nothing of that."""
    wanted = _documents(source, secrets=secrets)
    return replace(source, text="---\n".join(map(to_yaml, wanted))) if wanted else None


def _documents(source: Source, *, secrets: bool) -> list[dict[str, Any]]:
    flat = [each for manifest in manifests(source) for each in flattened(manifest)]
    return [each for each in flat if (each.get("kind") == "Secret") == secrets]
