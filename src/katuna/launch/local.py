"""The launcher of this machine: trials as guarded processes, their logs followed, their ends told as one event each."""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from katuna.contracts import Clock, LaunchEvent, TrialRequest
from katuna.errors import LOCAL, Finding, KatunaError, LaunchFailed, StoreFailed
from katuna.launch.command import command, option_problems, problems, texts
from katuna.launch.devices import DevicePool, Lease, cuda_devices, lease_folder, usable_cpus
from katuna.launch.ending import Ending, ending
from katuna.launch.options import LocalOptions
from katuna.launch.ports import check_unused, free_port
from katuna.launch.process import Claim, Command, GuardedProcess, await_release, claim
from katuna.launch.storage import full, is_of_the_disk, store_failed
from katuna.launch.volumes import METRICS, Volumes
from katuna.metrics.collect import Collecting, MetricSource
from katuna.metrics.line import Report
from katuna.spec.dump import to_yaml
from katuna.spec.job import MASTER_PORT, Job, job_from_manifest
from katuna.spec.model import Manifest
from katuna.trials import Exited, Reported, Started, Trial

LOOK_S = 0.1
"""How often growing logs, and devices that others have, are looked at."""
CLOSE_GRACE_S = 10.0
OLD_GUARD_TIMEOUT_S = 15.0
UNRESPONSIVE_S = 10.0
"""What a guard gets beyond the grace period before it is given up itself."""


class _Run:
    """One trial between `start` and its Exited. It waits while it has no process."""

    def __init__(self, request: TrialRequest, folder: Path) -> None:
        self.request = request
        self.folder = folder
        self.attempt = 0
        self.log_start = 0
        self.stopping = False
        self.measured = False
        self.job: Job | None = None
        self.claim: Claim | None = None
        self.lease: Lease | None = None
        self.process: GuardedProcess | None = None
        self.source: MetricSource | None = None
        self.command: Command
        self.said: dict[str, dict[str, Any]] = {}
        self.began = 0.0
        self.last_at = 0.0

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def at(self, moment: float) -> float:
        """The moment of an event, never before that of the one before: the guard and katuna each look at the clock."""
        self.last_at = max(self.last_at, moment)
        return self.last_at

    def release(self) -> None:
        """Lets go of the folder and the devices; only when no process is left."""
        for held in (self.claim, self.lease):
            if held is not None:
                held.close()
        self.claim = self.lease = None
        if self.source is not None:
            self.source.close()


class LocalLauncher:
    """Implements `contracts.Launcher`; see there. A trial that needs devices waits, without Started, until they are free.

    So does one whose metrics are served at a port that a trial has. `trial_dir` gives a trial's folder by its name. `checkpoints`
    is the container's folder that a trial finds its parent's checkpoints in, "" where the search has no parents. `parallel` is how
    many trials share the CPUs. `devices` and `environ` are this machine's and this process's unless given.
    """

    def __init__(
        self,
        trial_dir: Callable[[str], Path],
        primary_container: str,
        collecting: Collecting,
        clock: Clock,
        *,
        checkpoints: str = "",
        options: LocalOptions | None = None,
        parallel: int = 1,
        config_maps: Sequence[Manifest] = (),
        devices: DevicePool | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._trial_dir = trial_dir
        self._primary = primary_container
        self._collecting = collecting
        self._volumes = Volumes(collecting, checkpoints)
        self._clock = clock
        self._options = options or LocalOptions()
        self._threads = max(1, usable_cpus() // max(1, parallel))
        self._config_maps = tuple(config_maps)
        self._devices = devices
        self._environ = dict(os.environ if environ is None else environ)
        self._runs: dict[int, _Run] = {}
        self._ready: list[LaunchEvent] = []
        self._failure: StoreFailed | None = None
        self._selector = selectors.DefaultSelector()

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
                for reason in self._problems(job, self._command(job, request, (), MASTER_PORT), request):
                    note(request, *reason)
                for reason in self._volumes.problems(texts(job, job.replicas[0], self._options, self._environ)):
                    note(request, *reason)
                if self._collecting.port:
                    check_unused(self._collecting.port)
            except KatunaError as error:
                note(request, str(error))
        if jobs:
            for reason in option_problems(self._options, jobs, self._environ):
                note(requests[0], *reason)
        return list(found.values())

    def start(self, request: TrialRequest) -> None:
        assert request.number not in self._runs, f"trial {request.number} runs already"
        self._runs[request.number] = _Run(request, self._trial_dir(request.name))

    def attach(self, trial: Trial) -> bool:
        """Always False, once the guard of an earlier process has ended the trial. Raises LaunchFailed when that cannot be had."""
        await_release(self._trial_dir(trial.name), OLD_GUARD_TIMEOUT_S)
        return False

    def poll(self, timeout_s: float) -> Sequence[LaunchEvent]:
        """See `contracts.Launcher`. What had happened before the disk failed comes first, StoreFailed with the next call."""
        give_up = time.monotonic() + timeout_s
        while True:
            self._look()
            left_s = give_up - time.monotonic()
            if self._ready or self._failure or left_s <= 0:
                break
            behind = any(run.source and not run.source.at_end for run in self._runs.values())
            self._selector.select(0 if behind else min(left_s, LOOK_S) if self._runs else left_s)
        if self._failure and not self._ready:
            raise self._failure
        events, self._ready = self._ready, []
        return events

    def stop(self, number: int, grace_s: float) -> None:
        run = self._runs.get(number)
        if run is None:
            return
        if run.source is not None and not run.stopping:
            run.source.hurry()
        run.stopping = True
        if run.process is not None:
            run.process.stop(grace_s)
        else:
            self._ready.append(self._exited(run, Ending(None, "Stopped", "it had not started yet")))

    def close(self, grace_s: float = CLOSE_GRACE_S) -> None:
        """Ends whatever still runs, asked first and made to after `grace_s`. Call it again with 0 to hurry, as after a second Ctrl-C."""
        for number in list(self._runs):
            self.stop(number, grace_s)
        give_up = time.monotonic() + grace_s + UNRESPONSIVE_S
        while self._runs and time.monotonic() < give_up:
            self._selector.select(LOOK_S)
            self._look()
        for run in list(self._runs.values()):
            if run.process is not None:
                run.process.kill()
        self._look()
        self._ready.clear()
        self._failure = None

    def _look(self) -> None:
        for run in list(self._runs.values()):
            self._ready += self._advance(run)

    # One trial

    def _advance(self, run: _Run) -> Iterator[LaunchEvent]:
        """What there is to tell of a trial now."""
        try:
            if run.process is None:
                self._admit(run)
            else:
                yield from self._observe(run)
        except StoreFailed as error:
            self._fail(run, error)
        except (KatunaError, OSError) as error:
            if isinstance(error, OSError) and is_of_the_disk(error):
                self._fail(run, store_failed(run.folder, error))
            else:
                yield self._given_up(run, _reason(error, run))

    def _fail(self, run: _Run, failure: StoreFailed) -> None:
        """Lets go of a trial that the disk has ended. It gets no Exited: to the journal it still runs, so it begins again."""
        self._given_up(run, "")
        self._failure = self._failure or failure

    def _admit(self, run: _Run) -> None:
        """Starts a waiting trial, unless its devices, or its port, are still taken."""
        if run.job is None:
            run.job = self._job(run.request)
        run.lease = self._lease(run.job)
        if run.lease is None:
            return
        port = free_port() if run.job.kind == "PyTorchJob" else MASTER_PORT
        run.command = self._command(run.job, run.request, run.lease.devices, port)
        for message, hint in self._problems(run.job, run.command, run.request):
            raise LaunchFailed(f"{message} ({hint})" if hint else message)
        run.folder.mkdir(parents=True, exist_ok=True)
        run.claim = claim(run.folder)
        (run.folder / "job.yaml").write_text(to_yaml(run.request.manifest), encoding="utf-8")
        self._volumes.begin(run.folder, self._trial_dir(run.request.parent) if run.request.parent else None)
        run.began = time.monotonic()
        self._spawn(run)

    def _spawn(self, run: _Run) -> None:
        """Begins the next attempt. Its log goes on behind a line of ours; its metrics are read from there."""
        assert run.job is not None and run.claim is not None and run.lease is not None  # noqa: PT018
        run.attempt += 1
        run.said = {}
        run.measured = False
        if self._collecting.port:
            check_unused(self._collecting.port)
        self._volumes.begin_attempt(run.folder)
        with run.log.open("ab") as log:
            if log.tell():
                log.write(f"\n--- katuna: attempt {run.attempt} ---\n".encode())
            run.log_start = log.tell()
        if run.source is not None:
            run.source.close()
        run.source = self._collecting.source(run.folder / METRICS, run.log, run.log_start)
        left_s = 0.0
        if run.job.deadline_s is not None:
            left_s = max(0.001, run.began + run.job.deadline_s - time.monotonic())
        run.process = GuardedProcess(
            run.request.name, run.command, run.log, run.claim, locks=run.lease.locks, deadline_s=left_s, grace_s=run.job.grace_s
        )
        self._selector.register(run.process, selectors.EVENT_READ)

    def _observe(self, run: _Run) -> Iterator[LaunchEvent]:
        assert run.process is not None and run.source is not None  # noqa: PT018
        for message in run.process.read():
            run.said[message["event"]] = message
            if message["event"] == "started":
                process = {"pid": message["pid"], "guard": run.process.guard_pid}
                yield Started(run.at(message["at"]), run.request.number, run.attempt, process)
        over = run.process.over
        if not over and "started" not in run.said:
            # A quick trial may print before its guard has told of it, and what comes before Started is of no attempt.
            return
        reports = run.source.read()
        while over and not run.source.at_end:
            yield from self._reported(run, reports)
            reports = run.source.read()
        if over:
            reports += run.source.finish()
        yield from self._reported(run, reports)
        if over:
            yield from self._conclude(run)

    def _reported(self, run: _Run, reports: Sequence[Report]) -> Iterator[LaunchEvent]:
        if reports:
            run.measured = run.measured or any(report.metric == self._collecting.metrics[0] for report in reports)
            at = run.at(run.said.get("exited", {}).get("at") or self._clock.now())
            yield Reported(at, run.request.number, tuple(reports))

    def _conclude(self, run: _Run) -> Iterator[LaunchEvent]:
        """After an attempt: another one where the job asks for it, else the trial's end."""
        assert run.job is not None and run.process is not None  # noqa: PT018
        self._selector.unregister(run.process)
        run.process = None
        end = ending(run.said, run.command.argv, run.log, run.log_start)
        if end.code is not None and not run.stopping and not (end.code == 0 and run.measured):
            _blame_the_disk(run, end)
        if end.is_failure and not run.stopping and run.attempt <= run.job.retries and (end.code or 0) >= run.job.retry_from:
            self._spawn(run)
        else:
            yield self._exited(run, end)

    def _given_up(self, run: _Run, why: str) -> Exited:
        if run.process is None:
            return self._exited(run, Ending(None, "StartError", why))
        run.process.kill()
        self._selector.unregister(run.process)
        return self._exited(run, Ending(128 + signal.SIGKILL, "LogUnreadable", why))

    def _exited(self, run: _Run, end: Ending) -> Exited:
        run.release()
        del self._runs[run.request.number]
        nearest = run.source.nearest if run.source else ()
        at = run.said.get("exited", {}).get("at") or self._clock.now()
        return Exited(run.at(at), run.request.number, end.code, end.reason, end.message, nearest)

    # From a manifest to a command

    def _job(self, request: TrialRequest) -> Job:
        return job_from_manifest(request.manifest, self._primary, self._config_maps, request.name, self._options.pass_env)

    def _command(self, job: Job, request: TrialRequest, devices: Sequence[str], port: int) -> Command:
        folder = self._trial_dir(request.name).absolute()
        extra = {"KATUNA_TRIAL_DIR": str(folder), "CUDA_VISIBLE_DEVICES": ",".join(devices)}
        defaults = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(self._threads)}
        own = self._volumes.maps(folder)
        given = command(job, job.replicas[0], self._options, self._environ, port=port, defaults=defaults, extra=extra, own=own)
        return replace(
            given, env={**given.env, **self._collecting.environment(folder / METRICS, given.env.get("PYTHONPATH", ""))}
        )

    def _problems(self, job: Job, given: Command, request: TrialRequest) -> Iterator[tuple[str, str]]:
        if len(job.replicas) != 1:
            yield f"{job.kind} {job.name} has {len(job.replicas)} replicas; trials of one replica run here", "remove the Workers"
        own = self._volumes.maps(self._trial_dir(request.name).absolute())
        yield from problems(job.replicas[0], given, own.values())
        wanted = self._gpus(job)
        if wanted and wanted > len(self._pool().devices):
            here = len(self._pool().devices) or "none"
            yield f"the trial needs {wanted} GPU(s) and this machine has {here}", "--device cpu runs it without"

    def _gpus(self, job: Job) -> int:
        asked = sum(replica.container.gpus for replica in job.replicas)
        return {"job": asked, "cpu": 0, "cuda": max(1, asked)}[self._options.device]

    def _lease(self, job: Job) -> Lease | None:
        wanted = self._gpus(job)
        # More than there are: not to be waited for; `_problems` says so.
        devices = self._pool().lease(wanted) if 0 < wanted <= len(self._pool().devices) else Lease((), ())
        if devices is None or not self._collecting.port:
            return devices
        port = DevicePool((f"port-{self._collecting.port}",), lease_folder(self._environ)).lease(1)
        if port is None:
            devices.close()
            return None
        return Lease(devices.devices, (*devices.locks, *port.locks))

    def _pool(self) -> DevicePool:
        if self._devices is None:
            self._devices = DevicePool(cuda_devices(self._environ), lease_folder(self._environ))
        return self._devices


def _blame_the_disk(run: _Run, end: Ending) -> None:
    """Raises StoreFailed for a trial that failed, or left no result, where nothing can be written any more."""
    error = full(run.folder)
    if error is not None:
        how = f"trial {run.request.name} has most likely failed of it: {end.message or 'it left no result'}"
        raise store_failed(run.folder, error, how)


def _reason(error: Exception, run: _Run) -> str:
    if isinstance(error, BlockingIOError):
        return f"another process still holds {run.folder}"
    if isinstance(error, OSError):
        return f"{error.filename or run.folder}: {error.strerror}"
    return str(error)
