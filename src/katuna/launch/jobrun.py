"""One job on this machine: its pods' containers as guarded processes, started in their order, started again by the job's rules, ended
together; what happens is told as events."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from katuna.errors import LaunchFailed, is_shortage
from katuna.jobs.lifecycle import (
    COMPLETED,
    CRASH_RESET_S,
    DEADLINE,
    START_ERROR,
    STOPPED,
    Again,
    ContainerExited,
    ContainerStarted,
    JobEnded,
    JobEvent,
    Over,
    Pods,
    advance,
    after_exit,
    after_start,
    backoff_limit,
    master_of,
    phases,
    succeeded,
)
from katuna.launch import memory
from katuna.launch.container import Part
from katuna.launch.devices import Lease, usable_cpus
from katuna.launch.ending import Ending
from katuna.launch.local_options import LocalOptions
from katuna.launch.meeting import Meeting, Stores
from katuna.launch.network import Network
from katuna.launch.plan import Place, Planned, job_problems, log_of, meeting, plan, rank_of
from katuna.launch.ports import free_port
from katuna.launch.process import PODS, Starter
from katuna.launch.storage import store_failed
from katuna.launch.volumes import PodVolumes
from katuna.launch.workspace import Files
from katuna.manifest.job import MASTER_PORT, Job
from katuna.search.budget import SUSPENDED
from katuna.search.contracts import Clock
from katuna.search.trials import Noted

PEERS_GRACE_S = 5.0
"""What the other replicas get when one has failed: they cannot go on without it."""
SETTLE_S = 10.0
"""How long processes may still run when the job has succeeded; with a cleanPodPolicy that deletes them, a second."""

REMARKABLE_S = 1.0
"""A pause before something begins again that people are told of."""


class JobRun:
    """A job between its start and its JobEnded, the last event of `poll`. Nothing here waits; see `release` for what lay there before.

    `folder` is the job's own, absolute. `defaults`, `extra` and `own` go into each container's environment and paths, as
    `launch.command.command` takes them; `prepare` changes a container each time before it starts, and may raise LaunchFailed and
    OSError. `files` then gives it files of its own. `lease` stays the caller's. `cpus` are what the replicas share. `number` is the
    trial's that the job is of. With `followed` somebody reads what the first replica's training container prints: it neither ends nor
    starts again before `was_read`.
    """

    def __init__(
        self,
        job: Job,
        folder: Path,
        *,
        options: LocalOptions,
        environ: Mapping[str, str],
        clock: Clock,
        starter: Starter,
        lease: Lease,
        files: Files,
        stores: Stores,
        defaults: Mapping[str, str],
        extra: Mapping[str, str],
        own: Mapping[str, str] | None = None,
        cpus: int | None = None,
        number: int = 0,
        prepare: Callable[[Planned], Planned] = lambda planned: planned,
        followed: bool = False,
    ) -> None:
        self.job = job
        self.over = False
        self.ending = Ending(None, STOPPED, "it had not started yet")
        """What decided how the job ended, once it has: the end of the container that trains, or of the one that failed."""
        self._number = number
        self._notes: list[Noted] = []
        self._folder = folder
        kept = files.kept.files if files.kept else ()
        self._place = Place(folder, options, environ, defaults, extra, own or {}, cpus or usable_cpus(), kept)
        self._files = files
        self._stores = stores
        self._meeting: Meeting | None = None
        self._network: Network | None = None
        self._clock = clock
        self._starter = starter
        self._lease = lease
        self._prepare = prepare
        self._followed = followed
        self._rules = options.restarts
        self._began = time.monotonic()
        self._parts: dict[str, list[Part]] = {}
        self._pods: Pods = {}
        self._renewing: dict[str, float] = {}
        self._attempts: dict[tuple[str, str], int] = {}
        self._restarts = 0
        self._outcome: Over | None = None
        self._why = ""
        self._settled = 0.0
        self._failures: list[tuple[float, Part, Ending]] = []
        self._stopping = False
        self._memory_looked = 0.0

    @property
    def main_log(self) -> Path:
        return self._folder / "log"

    def log(self, pod: str, container: str) -> Path:
        return log_of(self._folder, self.job, pod, container)

    def log_start(self) -> int:
        """Where the latest start of the first replica's training container begins in its log."""
        return self._first().log_start

    def attempts(self) -> int:
        """How often that container has been started."""
        if not self._parts:
            return 0
        part = self._first()
        return self._attempts.get((part.pod, part.name), 0)

    def filenos(self) -> list[int]:
        """One of these is readable when `poll` has more to tell."""
        waiting = self._meeting.filenos() if self._meeting else []
        return [*waiting, *(part.process.fileno() for part in self._all() if part.process and not part.process.over)]

    @property
    def unread_since(self) -> float | None:
        """When the container that somebody follows has ended, as long as that waits for its output to be read."""
        first = self._first() if self._parts else None
        return first.ended_at if first and first.process and not first.was_read else None

    def was_read(self) -> None:
        """All that it printed was read, or is not wanted any more: the next `poll` tells its end."""
        self._first().was_read = True

    def poll(self) -> list[JobEvent | Noted]:
        """What has happened since; call it at least every tenth of a second. Raises StoreFailed in a shortage; then only `stop` and
        `kill` are left to do."""
        events: list[JobEvent | Noted] = []
        if self.over:
            return events
        try:
            if not self._parts and not self.job.suspend and not self._outcome and not self._stopping:
                self._begin()
            if self._meeting:
                self._meeting.look()
            for event in self._observe():
                events.append(event)
                self._follow(event)
            self._start_due()
        except LaunchFailed as error:
            self._fail(str(error))
        except OSError as error:
            if is_shortage(error):
                raise store_failed(self._folder, error) from error
            self._fail(f"{error.filename or 'no process can be started'}: {error.strerror}")
        notes, self._notes = self._notes, []
        return [*events, *notes, *self._conclude()]

    def stop(self, grace_s: float) -> None:
        """Asks everything to end, made to after `grace_s`. Again with less: sooner."""
        self._stopping = True
        self._renewing.clear()
        self._stop_rest(grace_s)

    def kill(self) -> None:
        """At once, guards included, telling nothing."""
        self.over = True
        for part in self._all():
            part.kill()
        self._let_go(begins_again=True)

    # Starting

    def _begin(self) -> None:
        for message, hint in job_problems(self.job, self._place, self._lease.devices):
            raise LaunchFailed(f"{message} ({hint})" if hint else message)
        self._began = time.monotonic()
        if self._place.options.private_network:
            self._network = Network()
        self._new_pods([replica.pod_name for replica in self.job.replicas], self._port())

    def _port(self) -> int:
        """The port at which the replicas meet: of a store that katuna holds for them, or of one that torch opens."""
        if self._meeting:
            self._meeting.close()
            self._meeting = None
        way = meeting(plan(self.job, self._place, self._lease.devices, MASTER_PORT), self._place.options)
        if not way.held:
            return MASTER_PORT if self.job.kind == "Job" else free_port()
        self._meeting = Meeting(self._stores)
        if way.soon:
            self._stores.get_ready()
        return self._meeting.port

    def _new_pods(self, pods: Sequence[str], port: int | None = None) -> None:
        """`pods` anew, as their controllers make them: none of their containers has run, their own volumes are empty."""
        if port is not None:
            self._planned = plan(self.job, self._place, self._lease.devices, port)
        for replica in self.job.replicas:
            if replica.pod_name in pods:
                volumes = PodVolumes(self._folder, replica, self._place.options)
                volumes.remove()
                volumes.make()
        due = time.monotonic()
        for pod in pods:
            mine = [each for each in self._planned if each.replica.pod_name == pod]
            mine.sort(key=lambda each: each.stage != "init")
            self._parts[pod] = [Part(each, due, self._number, followed=self._followed and self._is_first(each)) for each in mine]
        self._pods = {pod: states for pod, states in self._pods.items() if pod not in pods}

    def _start_due(self) -> None:
        now = time.monotonic()
        if self._outcome or self._stopping:
            return
        if self._attempts and self._left_s() <= 0 and not any(part.process for part in self._all()):
            self._decide(Over("Failed", DEADLINE), "it ran longer than activeDeadlineSeconds")
            return
        self._renew(now)
        for parts in self._parts.values():
            for part in parts:
                if part.due is not None and part.due <= now and part.pod not in self._renewing and not self._waits(part):
                    self._start(part)
                if part.planned.stage == "init" and not part.completed:
                    break

    def _waits(self, part: Part) -> bool:
        """Whether a Worker, its own init containers aside, is held until the Master has been started, as by the operator's init
        container."""
        master = master_of(self.job)
        if master is None or part.planned.replica.role != "worker" or part.planned.stage == "init":
            return False
        return any(each.due is not None for each in self._parts[master.pod_name] if each.planned.is_main)

    def _renew(self, now: float) -> None:
        """Begins pods anew once nothing of them is left; all of a job together, at another port."""
        ready = [pod for pod, due in self._renewing.items() if due <= now and not any(part.process for part in self._parts[pod])]
        whole = len(self._renewing) == len(self.job.replicas)
        if ready and (not whole or len(ready) == len(self._renewing)):
            self._new_pods(ready, self._port() if whole else None)
            for pod in ready:
                del self._renewing[pod]

    def _start(self, part: Part) -> None:
        part.due = None
        attempt = self._attempts[part.pod, part.name] = self._attempts.get((part.pod, part.name), 0) + 1
        # A guard takes 0 for none.
        deadline_s = 0.0 if self.job.deadline_s is None else max(0.001, self._left_s())
        given = self._files.prepare(self._folder, self._prepare(part.planned))
        if self._network:
            given = replace(given, command=replace(given.command, view=(self._network.step(), *given.command.view)))
        part.start(
            given,
            self._folder / PODS / part.pod / part.name,
            attempt,
            self._starter,
            locks=self._lease.locks,
            deadline_s=deadline_s,
            grace_s=self.job.grace_s,
        )

    def _left_s(self) -> float:
        """Until the deadline; infinite without one."""
        return float("inf") if self.job.deadline_s is None else self._began + self.job.deadline_s - time.monotonic()

    # Watching

    def _observe(self) -> Iterator[ContainerStarted | ContainerExited]:
        """In the order in which it happened, as far as the guards have told."""
        seen: list[ContainerStarted | ContainerExited] = []
        look = time.monotonic() >= self._memory_looked + memory.LOOK_S
        if look:
            self._memory_looked = time.monotonic()
        for part in self._all():
            if part.process is not None:
                seen += part.look(self._clock, memory=look)
        yield from sorted(seen, key=lambda event: event.at)

    def _follow(self, event: ContainerStarted | ContainerExited) -> None:
        """What an event leads to, by the job's rules."""
        self._pods = advance(self._pods, event)
        part = next(each for each in self._parts[event.pod] if each.name == event.container)
        if isinstance(event, ContainerStarted):
            over = after_start(self.job, self._pods, self._rules) if part.restarts else None
            if over and not self._outcome:
                self._decide(
                    over, f"its containers have been restarted as often as backoffLimit {backoff_limit(self.job)} allows"
                )
            return
        if self._meeting and part is self._first() and event.code != 0:
            # As with one that rank 0 holds: whoever begins again finds nothing of the attempt before.
            self._meeting.forget()
        if event.pod in self._renewing:
            return
        if part.ending and part.ending.reason not in (COMPLETED, STOPPED):
            self._failures.append((event.at, part, part.ending))
        if self._outcome or self._stopping:
            return
        part.crashes = 0 if part.ran_s >= CRASH_RESET_S else part.crashes
        follows = after_exit(self.job, self._pods, event, rules=self._rules, restarts=self._restarts, crashes=part.crashes)
        if isinstance(follows, Again):
            self._again(follows, part)
        elif follows:
            past = self._left_s() <= 0 and follows.condition == "Failed"
            self._decide(Over("Failed", DEADLINE) if past else follows, "")
        elif part.planned.is_main and self._rules == "local":
            # What runs beside the training has done its work.
            for beside in self._parts[event.pod]:
                if beside.process:
                    beside.process.stop(min(PEERS_GRACE_S, self.job.grace_s))

    def _again(self, again: Again, part: Part) -> None:
        self._restarts += 1
        self._failures.clear()
        due = time.monotonic() + again.delay_s
        if again.delay_s >= REMARKABLE_S:
            who = "all replicas begin" if again.scope == "job" else f"{part.pod} begins"
            self._note(f"{who} again in {again.delay_s:g} s")
        if again.scope == "container":
            part.due = due
            part.restarts += 1
            part.crashes += 1
            return
        pods = [part.pod] if again.scope == "pod" else list(self._parts)
        self._renewing.update(dict.fromkeys(pods, due))
        for pod in pods:
            for each in self._parts[pod]:
                each.due = None
                if each.process:
                    each.process.stop(min(PEERS_GRACE_S, self.job.grace_s))

    # Ending

    def _note(self, text: str) -> None:
        self._notes.append(Noted(self._clock.now(), self._number, text))

    def _fail(self, why: str) -> None:
        self.ending = Ending(None, START_ERROR, why)
        self._decide(Over("Failed", START_ERROR), why)

    def _decide(self, outcome: Over, why: str) -> None:
        if self._outcome:
            return
        self._outcome, self._why = outcome, why
        self._renewing.clear()
        if outcome.condition == "Failed":
            self._stop_rest(min(PEERS_GRACE_S, self.job.grace_s))
        else:
            self._settled = time.monotonic() + (SETTLE_S if self.job.clean_pod_policy in ("", "None") else 1.0)

    def _stop_rest(self, grace_s: float) -> None:
        for part in self._all():
            part.due = None
            if part.process:
                part.process.stop(grace_s)

    def _conclude(self) -> Iterator[JobEnded]:
        """The end, when there is nothing left of the job; after a success what still runs is waited for, then ended."""
        running = [part for part in self._all() if part.process]
        if running:
            if self._outcome and self._settled and time.monotonic() >= self._settled:
                self._settled = 0.0
                names = ", ".join(part.pod if part.planned.is_main else f"{part.pod}.{part.name}" for part in running)
                self._why = f"{names} still ran and {'was' if len(running) == 1 else 'were'} ended"
                self._stop_rest(min(PEERS_GRACE_S, self.job.grace_s))
            return
        if self.job.suspend and not self._parts:
            self.ending = Ending(None, SUSPENDED)
            yield self._ended(SUSPENDED, SUSPENDED, "suspend is true; `katuna resume` starts it")
        elif self._outcome:
            yield self._decided(self._outcome)
        elif self._stopping:
            done = bool(self._parts) and succeeded(self.job, phases(self.job, self._pods, self._rules))
            self.ending = (self._first().ending if self._parts else None) or self.ending
            yield self._ended("Succeeded", COMPLETED, "") if done else self._ended("Stopped", STOPPED, self.ending.message)

    def _decided(self, outcome: Over) -> JobEnded:
        if outcome.condition == "Succeeded":
            self.ending = self._first().ending or Ending(0, COMPLETED)
            return self._ended("Succeeded", outcome.reason, "; ".join(filter(None, (self.ending.message, self._why))))
        if outcome.reason == START_ERROR and self._why:
            return self._ended("Failed", START_ERROR, self._why)
        if not self._failures:
            self.ending = Ending(128 + 15, outcome.reason, self._why)
            return self._ended("Failed", outcome.reason, self._why)
        # One that lost its peer may be heard of before the peer.
        _, part, self.ending = min(self._failures, key=lambda failure: failure[0])
        of_the_job = outcome.reason == DEADLINE or bool(self._why)
        reason = outcome.reason if of_the_job else self.ending.reason
        message = "; ".join(filter(None, (self._why, self._named(part, self.ending, deadline=outcome.reason == DEADLINE))))
        self.ending = replace(self.ending, reason=reason, message=message)
        return self._ended("Failed", reason, message)

    def _named(self, part: Part, end: Ending, *, deadline: bool) -> str:
        """The message of a failure. It names rank, pod and container where the job has several."""
        if deadline and end.reason != DEADLINE:
            return "it ran longer than activeDeadlineSeconds"
        several = len(self.job.replicas) > 1
        who = f"rank {rank_of(part.planned.replica)}, pod {part.pod}" if several and not deadline else ""
        what = "" if part.planned.is_main else f"{'init ' if part.planned.stage == 'init' else ''}container {part.name!r}"
        whose = ", ".join(filter(None, (who, what)))
        return f"{whose}: {end.message}" if whose else end.message

    def _ended(self, condition: str, reason: str, message: str) -> JobEnded:
        self.over = True
        self._let_go(begins_again=condition == "Stopped")
        return JobEnded(self._clock.now(), condition, reason, message)

    def _let_go(self, *, begins_again: bool) -> None:
        if self._meeting:
            self._meeting.close()
        if self._network:
            self._network.close()
        with contextlib.suppress(OSError):
            self._files.ended(self._folder, begins_again=begins_again)
        for replica in self.job.replicas:
            with contextlib.suppress(OSError):
                PodVolumes(self._folder, replica, self._place.options).remove()

    def _first(self) -> Part:
        return next(part for part in self._parts[self.job.replicas[0].pod_name] if part.planned.is_main)

    def _is_first(self, planned: Planned) -> bool:
        return planned.is_main and planned.replica.pod_name == self.job.replicas[0].pod_name

    def _all(self) -> Iterator[Part]:
        for parts in list(self._parts.values()):
            yield from parts
