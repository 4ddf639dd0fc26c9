"""One trial on a cluster, as far as it is known: its job, its pods' containers, and whether all that will be known of it is known."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from katuna.cluster.logs import LogFollower
from katuna.cluster.objects import End, Ended, Instance
from katuna.cluster.watch import Seen
from katuna.jobs.lifecycle import STOPPED
from katuna.manifest.job import Job
from katuna.search.contracts import TrialRequest

FIRST_PAUSE_S = 0.5
UNSEEN_S = 2.0
"""How long the end of a job may be known before those of its containers are."""
SETTLE_S = 10.0
"""How long logs of other containers are still read once the job has ended."""


@dataclass
class Container:
    """One run of a container, with its log. The flags say which events have been told."""

    instance: Instance
    replica: str
    follower: LogFollower | None = None
    is_started_told: bool = False
    is_exit_told: bool = False
    was_read: bool = False
    is_gone: bool = False

    @property
    def ended(self) -> Ended | None:
        """None while it runs. Where its pod went away unseen, the exit code is unknown."""
        return self.instance.ended or (Ended(None, STOPPED, "its pod was deleted", None) if self.is_gone else None)

    def is_before(self, other: Container) -> bool:
        """Whether `other` is a later run of the same container."""
        mine, its = self.instance, other.instance
        return (mine.uid, mine.container) == (its.uid, its.container) and mine.restarts < its.restarts

    def ended_unseen(self) -> None:
        """A later run tells that this one has ended; a pod's status has the ends of two runs at most."""
        if self.instance.ended is None:
            self.instance = replace(self.instance, ended=Ended(None, "Unknown", "it ended while katuna did not look", None))

    @property
    def is_logged(self) -> bool:
        """Whether all that it printed is in its log."""
        return self.ended is not None and self.follower is not None and self.follower.complete.is_set()


@dataclass
class Followed:
    """A trial between `start` and its Exited."""

    request: TrialRequest
    job: Job
    is_created: bool = False
    next_try: float = 0.0
    pause_s: float = FIRST_PAUSE_S
    stop_by: float | None = None
    """When it is given up, once it was told to end; its pods are killed at `kill_at`."""
    kill_at: float = float("inf")
    end: End | None = None
    ended_at: float = 0.0
    is_deleted: bool = False
    attempts: int = 0
    containers: dict[tuple[str, str, int], Container] = field(default_factory=dict)
    pods: dict[str, str] = field(default_factory=dict)
    """Name of each pod that is there, by uid."""
    uid: str = ""
    created_at: str = ""
    """As the API server writes times."""
    early: list[Seen] = field(default_factory=list)
    """What was seen before the uid was known."""
    said: set[str] = field(default_factory=set)
    stuck: tuple[float, str] | None = None
    """Since when it has waited for what waiting does not mend, and why; None once a container has run."""
    failed: tuple[Container, Ended] | None = None
    """The container that failed first, by the kubelets' times."""

    @property
    def name(self) -> str:
        return self.job.name

    def is_main(self, container: Container) -> bool:
        first = self.job.replicas[0]
        return (container.replica, container.instance.container) == (first.pod_name, first.container.name)

    @property
    def main(self) -> list[Container]:
        return [each for each in self.containers.values() if self.is_main(each)]

    def is_over(self, now: float) -> bool:
        """Whether all that will be known of the trial is known."""
        if self.stop_by is not None and now >= self.stop_by:
            return True
        if any(not each.is_exit_told for each in self.containers.values() if self.is_deleted or self.is_main(each)):
            return False
        if self.is_deleted:
            return not self.pods
        if self.end is None or self.stop_by is not None:
            return False
        if not self.main and now < self.ended_at + UNSEEN_S:
            return False
        waits = any(each.follower and not each.follower.complete.is_set() for each in self.containers.values())
        return not waits or now >= self.ended_at + SETTLE_S
