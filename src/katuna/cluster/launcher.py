"""The launcher of a cluster: each trial is a job that its controllers run; containers' ends and waits are told as they happen."""

from __future__ import annotations

import queue
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from katuna.cluster.api import Api, Object
from katuna.cluster.code import UNPACKS
from katuna.cluster.followed import Container, Followed
from katuna.cluster.logs import LogFollower
from katuna.cluster.objects import (
    PODS_OF,
    RUN_LABEL,
    Wait,
    Warned,
    end_of,
    instances,
    is_suspended,
    job_of,
    labelled,
    owners,
    replica_of,
    waits_for,
    warning_of,
)
from katuna.cluster.watch import Outage, Seen, Told, Watcher
from katuna.errors import ClusterRefused, ClusterUnreachable, KatunaError
from katuna.jobs.lifecycle import COMPLETED, START_ERROR, STOPPED, ContainerExited, ContainerStarted
from katuna.log import last_lines
from katuna.manifest.build import job_from_manifest
from katuna.manifest.experiment import Manifest
from katuna.manifest.job import Job
from katuna.search.contracts import CLOSE_GRACE_S, Clock, LaunchEvent, Output, TrialRequest
from katuna.search.trials import Exited, Noted, Started, Trial

LOOK_S = 0.1
GONE_S = 60.0
"""How long the pods of a deleted job may take beyond their grace period."""
LONGEST_PAUSE_S = 15.0
STUCK_S = 120.0
"""How long a job may wait for something that waiting does not mend, such as an image that is not there, before it has failed."""
REMEMBERED = 500
"""Warnings of objects that are not known yet, at most."""

LogPath = Callable[[Job, str, str, str], Path]
"""Where a log is kept, by its job, trial, replica and container."""


class ClusterLauncher:
    """Implements `contracts.JobLauncher`; see there.

    `run` is the value of the label that all of the run's objects have, `local_queue` the LocalQueue of Kueue that admits them. `log_path` says where a container's log is kept. `prepare` makes
    the job that is sent of a trial's. With `keeps_jobs` a job that has ended stays on the cluster. `beside` are the documents that the
    jobs refer to.
    """

    def __init__(
        self,
        api: Api,
        run: str,
        primary_container: str,
        log_path: LogPath,
        clock: Clock,
        *,
        kind: str,
        prepare: Callable[[Manifest], Manifest] = lambda manifest: manifest,
        beside: Sequence[Manifest] = (),
        keeps_jobs: bool = False,
        local_queue: str = "",
    ) -> None:
        self._api = api
        self._run = run
        self._primary = primary_container
        self._log_path = log_path
        self._clock = clock
        self._kind = kind
        self._prepare = prepare
        self._beside = tuple(beside)
        self._keeps_jobs = keeps_jobs
        self._queue = local_queue
        self._runs: dict[int, Followed] = {}
        self._told: queue.SimpleQueue[Told] = queue.SimpleQueue()
        self._watchers: list[Watcher] = []
        self._ready: list[LaunchEvent] = []
        self._unanswered: set[str] = set()
        self._followers: list[LogFollower] = []
        self._warnings: deque[Warned] = deque(maxlen=REMEMBERED)

    def sent(self, request: TrialRequest) -> Manifest:
        """The job as it goes to the API server."""
        return self._prepare(labelled(request.manifest, self._api.namespace, self._run, self._queue))

    def start(self, request: TrialRequest) -> None:
        assert request.number not in self._runs, f"trial {request.number} runs already"
        try:
            self._runs[request.number] = Followed(request, self._job(request.manifest, request.name))
        except KatunaError as error:
            self._ready.append(Exited(self._clock.now(), request.number, None, START_ERROR, str(error)))

    def attach(self, trial: Trial) -> bool:
        """True for a trial whose job is on the cluster still, running or not: its events come from its beginning on."""
        found = self._api.get(self._kind, trial.name)
        if found is None or not self._is_ours(found):
            return False
        manifest = {**found}
        request = TrialRequest(trial.number, trial.name, manifest)
        metadata = found["metadata"]
        run = self._runs[trial.number] = Followed(request, self._job(manifest, trial.name), is_created=True)
        run.uid, run.created_at = metadata["uid"], metadata.get("creationTimestamp") or ""
        return True

    def poll(self, timeout_s: float) -> Sequence[LaunchEvent]:
        give_up = time.monotonic() + timeout_s
        if not self._watchers and self._runs:
            self._watch()
        while True:
            self._listen()
            for run in list(self._runs.values()):
                self._ready += self._advance(run)
            left_s = give_up - time.monotonic()
            if self._ready or left_s <= 0:
                break
            self._wait(min(left_s, LOOK_S) if self._runs else left_s)
        events, self._ready = self._ready, []
        return events

    def output(self, number: int) -> Output | None:
        run = self._runs.get(number)
        main = (
            next((each for each in reversed(run.main) if each.is_started_told and not each.is_exit_told), None) if run else None
        )
        if run is None or main is None or main.follower is None:
            return None
        path = self._log_path(run.job, run.request.name, main.replica, main.instance.container)
        over = main.is_logged or (main.ended is not None and run.stop_by is not None)
        return Output(path, main.follower.start_at, self._clock.now() if over else None)

    def was_read(self, number: int) -> None:
        run = self._runs.get(number)
        if run is None:
            return
        for each in run.main:
            each.was_read = each.was_read or each.is_logged or (each.ended is not None and run.stop_by is not None)

    def stop(self, number: int, grace_s: float) -> None:
        run = self._runs.get(number)
        if run is None:
            return
        now = time.monotonic()
        run.kill_at = min(run.kill_at, now + grace_s)
        if run.stop_by is None:
            run.stop_by, run.next_try = now + max(grace_s, run.job.grace_s) + GONE_S, 0.0

    def close(self, grace_s: float = CLOSE_GRACE_S) -> None:
        """Deletes the jobs that still run, and waits for their pods to go."""
        for number in list(self._runs):
            self.stop(number, grace_s)
        give_up = time.monotonic() + grace_s
        while self._runs and time.monotonic() < give_up:
            for number in self._runs:
                self.was_read(number)
            self.poll(LOOK_S)
        self._runs.clear()
        for follower in self._followers:
            follower.complete.wait(max(0.0, give_up - time.monotonic()))
            follower.close()
        self._followers.clear()
        for watcher in self._watchers:
            watcher.stop()
        self._watchers.clear()
        self._ready.clear()

    # What the cluster says

    def _watch(self) -> None:
        selectors = {self._kind: f"{RUN_LABEL}={self._run}", "Pod": PODS_OF[self._kind], "Event": ""}
        self._watchers = [Watcher(self._api, kind, selector, self._told) for kind, selector in selectors.items()]
        for watcher in self._watchers:
            watcher.start()

    def _wait(self, timeout_s: float) -> None:
        try:
            self._take(self._told.get(timeout=timeout_s))
        except queue.Empty:
            return

    def _listen(self) -> None:
        while True:
            try:
                self._take(self._told.get_nowait())
            except queue.Empty:
                return

    def _take(self, told: Told) -> None:
        if isinstance(told, ClusterRefused):
            raise told
        if isinstance(told, Outage):
            self._tell_outage(told)
            return
        if told.kind == "Event":
            self._take_event(told.object)
            return
        name = told.object["metadata"]["name"] if told.kind == self._kind else job_of(told.object)
        run = next((each for each in self._runs.values() if each.name == name), None)
        if run is None:
            return
        if not run.uid:
            run.early.append(told)
        elif told.kind == self._kind:
            self._take_job(run, told)
        else:
            self._take_pod(run, told)

    def _take_job(self, run: Followed, seen: Seen) -> None:
        if seen.object["metadata"]["uid"] != run.uid:
            return
        run.is_deleted = run.is_deleted or seen.deleted
        end = end_of(seen.object)
        if end and not run.end:
            run.end, run.ended_at = end, time.monotonic()
        elif is_suspended(seen.object) and not end:
            self._note(run, "the job is suspended: it waits for its queue, or for spec.suspend to be set to false")

    def _take_pod(self, run: Followed, seen: Seen) -> None:
        pod = seen.object
        metadata = pod["metadata"]
        if any(kind == self._kind and uid != run.uid for kind, uid in owners(pod)):
            # Of an earlier job of that name.
            return
        replica = replica_of(run.job, pod)
        for instance in instances(pod):
            known = run.containers.get(instance.key)
            if known is None:
                run.containers[instance.key] = known = Container(instance, replica)
            elif known.instance.ended is None:
                known.instance = instance
        for each in run.containers.values():
            if each.instance.uid == metadata["uid"]:
                if any(each.is_before(other) for other in run.containers.values()):
                    each.ended_unseen()
                each.is_gone = each.is_gone or seen.deleted
                self._tell_follower(each)
        if seen.deleted:
            run.pods.pop(metadata["uid"], None)
            return
        if metadata["uid"] not in run.pods:
            run.pods[metadata["uid"]] = metadata["name"]
            for each_warned in [each for each in self._warnings if each.uid == metadata["uid"]]:
                self._wait_noted(run, each_warned.says)
        for wait in waits_for(pod):
            self._wait_noted(run, wait)

    @staticmethod
    def _tell_follower(container: Container) -> None:
        if container.follower is not None and container.ended is not None:
            container.follower.ended()

    def _take_event(self, event: Object) -> None:
        found = warning_of(event)
        if found is None:
            return
        self._warnings.append(found)
        for run in self._runs.values():
            # Between a TrainJob and its pods stand a JobSet and Jobs, which katuna does not look at.
            between = self._kind == "TrainJob" and found.kind in ("JobSet", "Job") and found.name.startswith(run.name)
            between = between and found.at >= run.created_at
            if found.uid == run.uid or found.uid in run.pods or between:
                self._wait_noted(run, found.says)

    def _wait_noted(self, run: Followed, wait: Wait) -> None:
        self._note(run, wait.why)
        if wait.is_stuck and not run.stuck and not run.containers:
            run.stuck = time.monotonic(), wait.why

    def _tell_outage(self, outage: Outage) -> None:
        before = bool(self._unanswered)
        (self._unanswered.add if outage.message else self._unanswered.discard)(outage.kind)
        if bool(self._unanswered) == before:
            return
        said = "the API server answers again" if before else f"{outage.message}; the job goes on there, and katuna asks again"
        for run in self._runs.values():
            self._ready.append(Noted(self._clock.now(), run.request.number, said))

    def _note(self, run: Followed, text: str) -> None:
        """Once: the pods that a controller makes one after the other differ in the end of their names."""
        same = re.sub(rf"\b{re.escape(run.name)}(-[a-z0-9]+)+\b", run.name, text)
        if same not in run.said:
            run.said.add(same)
            self._ready.append(Noted(self._clock.now(), run.request.number, text))

    # One trial

    def _advance(self, run: Followed) -> Iterator[LaunchEvent]:
        now = time.monotonic()
        if now >= run.next_try and (not run.is_created or (run.stop_by is not None and not run.is_deleted)):
            yield from self._ask(run, now)
            if run.request.number not in self._runs:
                return
        run.stuck = None if run.containers else run.stuck
        if run.stuck and run.stop_by is None and now >= run.stuck[0] + STUCK_S:
            self.stop(run.request.number, 0.0)
        if now >= run.kill_at and run.pods:
            self._kill_pods(run)
        for container in list(run.containers.values()):
            yield from self._tell(run, container)
        if run.is_over(now):
            yield self._exited(run)

    def _ask(self, run: Followed, now: float) -> Iterator[LaunchEvent]:
        """Creates the job, or deletes it, once; later again where the server has no answer."""
        try:
            if run.stop_by is not None:
                if not run.is_created:
                    run.is_deleted = True
                    return
                self._api.delete(self._kind, run.name)
                run.next_try = float("inf")
                return
            made = self._create(run)["metadata"]
            run.uid, run.created_at = made["uid"], made.get("creationTimestamp") or ""
            run.is_created = True
            for seen in run.early:
                self._take(seen)
            run.early.clear()
        except ClusterUnreachable as error:
            run.next_try = now + max(run.pause_s, error.after_s)
            run.pause_s = min(2 * run.pause_s, LONGEST_PAUSE_S)
            self._note(run, f"{error}; katuna asks again")
        except ClusterRefused as refused:
            if run.stop_by is not None:
                run.next_try = now + LONGEST_PAUSE_S
                self._note(run, f"the job {run.name} cannot be deleted: {refused}; katuna asks again")
                return
            yield self._leave(run, Exited(self._clock.now(), run.request.number, None, START_ERROR, str(refused)))

    def _kill_pods(self, run: Followed) -> None:
        """Their own grace period may be longer than the one that was given."""
        run.kill_at = float("inf")
        for name in run.pods.values():
            try:
                self._api.delete("Pod", name, 0)
            except (ClusterRefused, ClusterUnreachable) as error:
                self._note(run, f"pod {name} cannot be deleted at once: {error}")

    def _create(self, run: Followed) -> Object:
        try:
            return self._api.create(self._kind, self.sent(run.request))
        except ClusterRefused as refused:
            # The answer to an earlier try may have been lost.
            there = self._api.get(self._kind, run.name) if refused.reason == "AlreadyExists" else None
            if there is None or not self._is_ours(there):
                raise
            return there

    def _tell(self, run: Followed, container: Container) -> Iterator[LaunchEvent]:
        number, instance = run.request.number, container.instance
        is_main = run.is_main(container)
        earlier = run.main[: run.main.index(container)] if is_main else []
        if instance.container == UNPACKS and (instance.ended is None or instance.ended.code == 0):
            # The step is katuna's own, and only its failure is worth a word.
            container.is_exit_told = container.ended is not None
            return
        if not container.is_started_told and instance.ended is not None and instance.ended.code is None:
            # It was never executed, so nothing of it has started.
            container.is_started_told = container.is_exit_told = True
            run.failed = run.failed or (container, instance.ended)
            return
        if not container.is_started_told:
            if any(not each.is_exit_told for each in earlier):
                return
            yield from self._started(run, container, is_main=is_main)
        ended = container.ended
        if ended is None or container.is_exit_told or (is_main and not container.was_read):
            return
        container.is_exit_told = True
        reason = STOPPED if run.stop_by is not None and ended.reason != COMPLETED else ended.reason
        if reason not in (COMPLETED, STOPPED) and (run.failed is None or (ended.at or 0.0) < (run.failed[1].at or 0.0)):
            run.failed = (container, ended)
        yield ContainerExited(
            self._clock.now(), number, container.replica, instance.container, instance.restarts, ended.code, reason, ended.message
        )

    def _started(self, run: Followed, container: Container, *, is_main: bool) -> Iterator[LaunchEvent]:
        number, instance, now = run.request.number, container.instance, self._clock.now()
        run.attempts += is_main
        path = self._log_path(run.job, run.request.name, container.replica, instance.container)
        mark = f"attempt {run.attempts if is_main else instance.restarts + 1}"
        replica = next((each for each in run.job.replicas if each.pod_name == container.replica), run.job.replicas[0])
        restarts = instance.restarts if replica.restart_policy in ("OnFailure", "Always") else None
        container.follower = LogFollower(self._api, instance.pod, instance.container, path, mark, restarts=restarts)
        container.is_started_told = True
        self._tell_follower(container)
        container.follower.start()
        self._followers.append(container.follower)
        record = {"start": "cluster", "node": instance.node, "pod": instance.pod}
        yield ContainerStarted(now, number, container.replica, instance.container, instance.restarts, record)
        if is_main:
            yield Started(now, number, run.attempts, record)

    def _exited(self, run: Followed) -> Exited:
        at, number = self._clock.now(), run.request.number
        main = run.main[-1].instance.ended if run.main else None
        if run.stuck:
            return self._leave(
                run, Exited(at, number, None, START_ERROR, f"no container has started in {STUCK_S:g} s: {run.stuck[1]}")
            )
        if run.stop_by is not None:
            code = main.code if main else 143 if run.main else None
            return self._leave(run, Exited(at, number, code, STOPPED, "stopped"))
        if run.end is None:
            return self._leave(run, Exited(at, number, None, "Deleted", "somebody has deleted the job"))
        if run.end.condition == "Succeeded":
            return self._leave(run, Exited(at, number, main.code if main else 0, COMPLETED, ""))
        if run.failed is None:
            return self._leave(run, Exited(at, number, main.code if main else None, run.end.reason, run.end.message))
        container, ended = run.failed
        who = f"pod {container.instance.pod}: " if len(run.job.replicas) > 1 else ""
        path = self._log_path(run.job, run.request.name, container.replica, container.instance.container)
        said = last_lines(path, container.follower.start_at) if container.follower else []
        ends = f"; its log ends: {' | '.join(map(str.strip, said))}" if said else "; its log is empty"
        return self._leave(run, Exited(at, number, ended.code, ended.reason, f"{who}{ended.message}{ends}"))

    def _leave(self, run: Followed, exited: Exited) -> Exited:
        del self._runs[run.request.number]
        self._followers = [each for each in self._followers if each.is_alive()]
        if run.is_created and not run.is_deleted and not self._keeps_jobs and run.stop_by is None:
            try:
                self._api.delete(self._kind, run.name)
            except (ClusterRefused, ClusterUnreachable) as error:
                self._ready.append(Noted(exited.at, run.request.number, f"the job {run.name} stays on the cluster: {error}"))
        return exited

    # From a manifest to a job

    def _job(self, manifest: Manifest, trial: str) -> Job:
        return job_from_manifest(manifest, self._primary, self._beside, trial)

    def _is_ours(self, found: Object) -> bool:
        return bool((found["metadata"].get("labels") or {}).get(RUN_LABEL) == self._run)
