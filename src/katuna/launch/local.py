"""The launcher of this machine: each trial is a job of guarded processes, and its end is told as one event."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from katuna.errors import LOCAL, FilesMixed, Finding, KatunaError, LaunchFailed, StoreFailed, is_shortage
from katuna.jobs.lifecycle import STOPPED, ContainerStarted, JobEnded, JobEvent
from katuna.launch.command import option_problems, texts
from katuna.launch.devices import DevicePool, Lease, cuda_devices
from katuna.launch.ending import Ending
from katuna.launch.jobrun import JobRun
from katuna.launch.leftovers import release
from katuna.launch.local_options import LocalOptions
from katuna.launch.meeting import Stores
from katuna.launch.needs import Needs
from katuna.launch.plan import Place, Planned, at_a_time, gpus, job_problems, trial_cpus, trial_place
from katuna.launch.ports import check_unused
from katuna.launch.process import ColdStarter, Starter, await_any
from katuna.launch.storage import room_for, store_failed
from katuna.launch.workspace import Files
from katuna.manifest.build import job_from_manifest
from katuna.manifest.dump import to_yaml
from katuna.manifest.experiment import Manifest
from katuna.manifest.job import Job
from katuna.search.contracts import CLOSE_GRACE_S, Clock, LaunchEvent, Output, TrialRequest
from katuna.search.trials import Exited, Noted, Started, Trial

LOOK_S = 0.1
"""How often devices and ports that others have are looked at."""
SLOW_START_S = 1.0
"""After how long without a process a person is told what takes so long: the imports of the server of warm starts."""
UNRESPONSIVE_S = 10.0
"""What a guard gets beyond the grace period before it is given up itself."""


class _Run:
    """One trial between `start` and its Exited. It waits while it has no JobRun."""

    def __init__(self, request: TrialRequest, folder: Path) -> None:
        self.request = request
        self.folder = folder
        self.stopping = False
        self.failed = False
        self.job: Job | None = None
        self.jobrun: JobRun | None = None
        self.lease: Lease | None = None
        self.last_at = 0.0
        self.is_waiting = False

    def at(self, moment: float) -> float:
        """The moment of an event, never before that of the one before: the guard and katuna each look at the clock."""
        self.last_at = max(self.last_at, moment)
        return self.last_at

    def release(self) -> None:
        """Lets go of the devices; only when no process is left."""
        if self.lease is not None:
            self.lease.close()
        self.lease = None

    def is_main(self, pod: str, container: str) -> bool:
        """Whether this is the container whose output has the trial's metrics."""
        assert self.job is not None
        first = self.job.replicas[0]
        return (pod, container) == (first.pod_name, first.container.name)


class LocalLauncher:
    """Implements `contracts.JobLauncher`; see there. A trial that needs devices, or a port, waits without Started until they are free.

    `trial_dir` gives a trial's folder by its name. `needs` is what each trial needs beside its job. `parallel` is how
    many trials share the CPUs. `devices` and `environ` are this machine's and this process's unless given. `starter` and `files`, which
    `close` closes, start an interpreter for each process, and share the folders, unless given. `manifest` is the file in a trial's folder
    that gets its job.
    """

    def __init__(
        self,
        trial_dir: Callable[[str], Path],
        primary_container: str,
        clock: Clock,
        *,
        needs: Needs | None = None,
        options: LocalOptions | None = None,
        parallel: int = 1,
        beside: Sequence[Manifest] = (),
        devices: DevicePool | None = None,
        environ: Mapping[str, str] | None = None,
        starter: Starter | None = None,
        files: Files | None = None,
        manifest: str = "job.yaml",
    ) -> None:
        self._trial_dir = trial_dir
        self._primary = primary_container
        self._needs = needs or Needs()
        self._clock = clock
        self._options = options or LocalOptions()
        self._cpus = trial_cpus(parallel)
        self._beside = tuple(beside)
        self._devices = devices
        self._environ = dict(os.environ if environ is None else environ)
        self._runs: dict[int, _Run] = {}
        self._ready: list[LaunchEvent] = []
        self._failure: StoreFailed | FilesMixed | None = None
        self._closing = False
        self._starter: Starter = starter or ColdStarter()
        self._files = files or Files(replace(self._options, files="shared"), Path())
        self._stores = Stores(self._environ)
        self._parallel = parallel
        self._manifest = manifest
        self._slow_at: float | None = None if starter and not self._options.cold else float("inf")
        self._written_beside: Callable[[], list[str]] | None = None
        self._first_is_over = parallel == 1

    def preflight(self, requests: Sequence[TrialRequest]) -> list[Finding]:
        """Why these trials could not start here; nothing is run or written. The same remark on several trials comes once.

        An option that matches none of them is a mistake too: where jobs differ in images or paths, give one of each.
        """
        found: dict[str, Finding] = {}
        jobs: list[Job] = []

        def note(request: TrialRequest, message: str, hint: str = "") -> None:
            found.setdefault(message, Finding(request.name, 0, 0, "", message, hint=hint, on=LOCAL))

        for request in requests:
            try:
                job = self._job(request)
                jobs.append(job)
                for reason in job_problems(job, self._place(request), self._pool().devices):
                    note(request, *reason)
                mapped = [text for replica in job.replicas for text in texts(job, replica, self._options, self._environ)]
                for reason in self._needs.problems(mapped):
                    note(request, *reason)
                port = self._needs.port
                if port and self._options.private_network:
                    note(
                        request,
                        f"--private-network: the metrics that a trial serves at port {port} cannot be read from outside of its network",
                        "leave the option out, or take another metricsCollectorSpec",
                    )
                elif port:
                    check_unused(port)
            except KatunaError as error:
                note(request, str(error))
        if jobs:
            for reason in option_problems(self._options, jobs, self._environ):
                note(requests[0], *reason)
            many, leases = (max(map(count, jobs)) * self._parallel for count in (at_a_time, self._leases))
            for reason in room_for(many, leases):
                note(requests[0], *reason)
        return list(found.values())

    def start(self, request: TrialRequest) -> None:
        assert request.number not in self._runs, f"trial {request.number} runs already"
        self._runs[request.number] = _Run(request, self._trial_dir(request.name))

    def attach(self, trial: Trial) -> bool:
        """Always False, once the guard of an earlier process has ended the trial. Raises LaunchFailed when that cannot be had."""
        release(self._trial_dir(trial.name))
        return False

    def poll(self, timeout_s: float) -> Sequence[LaunchEvent]:
        """See `contracts.Launcher`. What had happened before a shortage comes first, StoreFailed with the next call."""
        give_up = time.monotonic() + timeout_s
        while True:
            self._look()
            left_s = give_up - time.monotonic()
            if self._ready or self._failure or left_s <= 0:
                break
            await_any(self._filenos(), min(left_s, LOOK_S) if self._runs else left_s)
        if self._failure and not self._ready:
            raise self._failure
        events, self._ready = self._ready, []
        return events

    def output(self, number: int) -> Output | None:
        run = self._runs.get(number)
        if run is None or run.jobrun is None or not run.jobrun.attempts():
            return None
        return Output(run.folder / "log", run.jobrun.log_start(), run.jobrun.unread_since)

    def was_read(self, number: int) -> None:
        run = self._runs.get(number)
        if run is not None and run.jobrun is not None:
            run.jobrun.was_read()

    def stop(self, number: int, grace_s: float) -> None:
        run = self._runs.get(number)
        if run is None:
            return
        run.stopping = True
        if run.jobrun is not None:
            run.jobrun.stop(grace_s)
        else:
            self._ready.append(self._exited(run, Ending(None, STOPPED, "it had not started yet"), self._clock.now()))

    def close(self, grace_s: float = CLOSE_GRACE_S) -> None:
        """Ends whatever still runs, asked first and made to after `grace_s`. Call it again with 0 to hurry, as after a second Ctrl-C."""
        for number in list(self._runs):
            self.stop(number, grace_s)
        self._closing = True
        give_up = time.monotonic() + grace_s + UNRESPONSIVE_S
        while self._runs and time.monotonic() < give_up:
            await_any(self._filenos(), LOOK_S)
            self._look()
            self._ready.clear()
        for run in list(self._runs.values()):
            self._given_up(run, "")
        self._starter.close()
        self._stores.close()
        self._files.close()
        self._ready.clear()
        self._failure = None
        self._closing = False

    def _filenos(self) -> list[int]:
        return [fileno for run in self._runs.values() if run.jobrun for fileno in run.jobrun.filenos()]

    def _look(self) -> None:
        for run in list(self._runs.values()):
            self._ready += self._advance(run)

    # One trial

    def _advance(self, run: _Run) -> Iterator[LaunchEvent]:
        """What there is to tell of a trial now."""
        try:
            if run.jobrun is None:
                yield from self._admit(run)
            if run.jobrun is not None:
                yield from self._observe(run, run.jobrun)
        except (StoreFailed, FilesMixed) as error:
            self._fail(run, error)
        except (KatunaError, OSError) as error:
            if isinstance(error, OSError) and is_shortage(error):
                self._fail(run, store_failed(run.folder, error))
            else:
                yield self._given_up(run, _reason(error, run))

    def _fail(self, run: _Run, failure: StoreFailed | FilesMixed) -> None:
        """Gives up a trial because of a failure that is not its own. Its processes are left to `close`. It gets no Exited, so
        it begins again with a resume."""
        self._failure = self._failure or failure
        run.failed = True
        if run.jobrun is None or run.jobrun.over or not run.jobrun.filenos():
            self._given_up(run, "")

    def _wanted(self, job: Job) -> str:
        count, port = gpus(job, self._options), self._needs.port
        return " and ".join(
            [*([f"{count} GPU{'' if count == 1 else 's'}"] if count else []), *([f"port {port}"] if port else [])]
        )

    def _admit(self, run: _Run) -> Iterator[Noted]:
        """Starts a waiting trial, unless its devices, or its port, are still taken, or the first trial is to be alone."""
        if self._failure is not None:
            return
        if not self._first_is_over and self._files.is_unwanted:
            if any(other.jobrun for other in self._runs.values()):
                return
            self._written_beside = self._written_beside or self._files.watch()
        if run.job is None:
            run.job = self._job(run.request)
        run.lease = self._lease(run.job)
        if run.lease is None:
            if not run.is_waiting:
                run.is_waiting = True
                whose = self._pool().holders()
                why = f"waiting for {self._wanted(run.job)} that others have{f' ({whose})' if whose else ''}"
                yield Noted(run.at(self._clock.now()), run.request.number, why)
            return
        place = self._place(run.request)
        for message, hint in job_problems(run.job, place, self._pool().devices):
            raise LaunchFailed(f"{message} ({hint})" if hint else message)
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / self._manifest).write_text(to_yaml(run.request.manifest), encoding="utf-8")
        self._needs.begin(run.folder, self._trial_dir(run.request.parent) if run.request.parent else None)
        self._slow_at = self._slow_at or time.monotonic() + SLOW_START_S
        run.jobrun = JobRun(
            run.job,
            place.folder,
            options=place.options,
            environ=place.environ,
            clock=self._clock,
            starter=self._starter,
            lease=run.lease,
            files=self._files,
            stores=self._stores,
            defaults=place.defaults,
            extra=place.extra,
            own=place.own,
            cpus=place.cpus,
            number=run.request.number,
            prepare=lambda planned: self._prepared(run, planned),
            followed=True,
        )

    def _see_what_the_first_wrote(self, run: _Run) -> None:
        """Where trials share a folder, as the machine allows nothing better, the first trial runs alone. If it writes there,
        the search goes on only one trial at a time."""
        if self._written_beside is None or self._first_is_over:
            return
        self._first_is_over = True
        if written := self._written_beside():
            more = f" and {len(written) - 1} more" if written[1:] else ""
            self._failure = self._failure or FilesMixed(
                f"trial {run.request.name} wrote {written[0]}{more}, where all trials write ({self._files.why}), so a second at a time "
                f"could spoil its value. `katuna resume {self._files.run_name} --parallel 1` goes on with one at a time"
            )

    def _prepared(self, run: _Run, planned: Planned) -> Planned:
        """Before each start of a container: the training container of an attempt finds its places empty."""
        if not run.is_main(planned.replica.pod_name, planned.container.name):
            return planned
        if self._needs.port:
            check_unused(self._needs.port)
        self._needs.begin_attempt(run.folder)
        env = planned.command.env
        more = self._needs.environment(run.folder.absolute(), env.get("PYTHONPATH", ""))
        return replace(planned, command=replace(planned.command, env={**env, **more}))

    def _observe(self, run: _Run, jobrun: JobRun) -> Iterator[LaunchEvent]:
        """What has happened to a trial's containers, and its end."""
        if (run.failed or self._closing) and jobrun.unread_since is not None:
            jobrun.was_read()
        events = jobrun.poll()
        if run.failed:
            if jobrun.over:
                self._given_up(run, "")
            return
        for event in events:
            yield from self._told(run, jobrun, event)
        if any(isinstance(event, ContainerStarted) for event in events):
            self._slow_at = float("inf")
        elif self._slow_at and time.monotonic() > self._slow_at and not jobrun.over:
            self._slow_at = float("inf")
            yield Noted(
                run.at(self._clock.now()),
                run.request.number,
                "Python starts, once for all replicas: a few seconds (--cold: once for each)",
            )

    def _told(self, run: _Run, jobrun: JobRun, event: JobEvent | Noted) -> Iterator[LaunchEvent]:
        if not isinstance(event, JobEnded):
            yield replace(event, at=run.at(event.at))
        if isinstance(event, ContainerStarted) and run.is_main(event.pod, event.container):
            yield Started(run.at(event.at), run.request.number, jobrun.attempts(), event.process)
        elif isinstance(event, JobEnded):
            yield self._exited(run, replace(jobrun.ending, message=event.message), event.at)
            self._see_what_the_first_wrote(run)

    def _given_up(self, run: _Run, why: str) -> Exited:
        if run.jobrun is None:
            return self._exited(run, Ending(None, "StartError", why), self._clock.now())
        run.jobrun.kill()
        return self._exited(run, Ending(128 + signal.SIGKILL, "Error", why), self._clock.now())

    def _exited(self, run: _Run, end: Ending, at: float) -> Exited:
        run.release()
        del self._runs[run.request.number]
        return Exited(run.at(at), run.request.number, end.code, end.reason, end.message)

    # From a manifest to a job in its place

    def _job(self, request: TrialRequest) -> Job:
        return job_from_manifest(request.manifest, self._primary, self._beside, request.name, self._options.pass_env)

    def _place(self, request: TrialRequest) -> Place:
        folder = self._trial_dir(request.name).absolute()
        own = self._needs.maps(folder)
        kept = self._files.kept.files if self._files.kept else ()
        return trial_place(folder, self._options, self._environ, own, self._cpus, kept)

    def _leases(self, job: Job) -> int:
        return gpus(job, self._options) + bool(self._needs.port)

    def _lease(self, job: Job) -> Lease | None:
        wanted = gpus(job, self._options)
        port = DevicePool((f"port-{self._needs.port}",)).lease(1) if self._needs.port else Lease((), ())
        if port is None:
            return None
        with contextlib.ExitStack() as unless_whole:
            unless_whole.callback(port.close)
            # More than there are: not to be waited for; `job_problems` says so.
            devices = self._pool().lease(wanted) if 0 < wanted <= len(self._pool().devices) else Lease((), ())
            if devices is not None:
                unless_whole.pop_all()
                return Lease(devices.devices, (*devices.locks, *port.locks))
        return None

    def _pool(self) -> DevicePool:
        if self._devices is None:
            self._devices = DevicePool(cuda_devices(self._environ))
        return self._devices


def _reason(error: Exception, run: _Run) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or run.folder}: {error.strerror}"
    return str(error)
