"""What a journal says of a trial's containers: how each was last started, how that ended, and which failed first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from katuna.jobs.lifecycle import COMPLETED, STOPPED, ContainerExited, ContainerStarted
from katuna.search.trials import Event, Resumed


@dataclass(frozen=True)
class Container:
    """Since its trial was last taken up: the last start, its end as far as it has one, and how often it was started, in its pod or in
    one made anew."""

    started: ContainerStarted | None = None
    exited: ContainerExited | None = None
    starts: int = 0


NEVER = Container()
"""One that nothing is known of."""


def containers(events: Iterable[Event], trial: int = 0) -> Mapping[tuple[str, str], Container]:
    """By pod and name; those that have been started, or could not be."""
    found: dict[tuple[str, str], Container] = {}
    for event in events:
        match event:
            case Resumed() if trial in event.restarted:
                found = {}
            case ContainerStarted(number=number) if number == trial:
                before = found.get((event.pod, event.container), NEVER)
                # A driver that was started anew is told of what runs as if it began.
                again = before.started is not None and before.exited is None and before.started.restarts == event.restarts
                starts = before.starts + (not again)
                found[event.pod, event.container] = Container(event, None, starts)
            case ContainerExited(number=number) if number == trial:
                before = found.get((event.pod, event.container), NEVER)
                found[event.pod, event.container] = Container(before.started, event, before.starts)
    return found


def first_failure(events: Iterable[Event], trial: int = 0) -> ContainerExited | None:
    """The first end that was a failure and after which its container did not begin again."""
    failed: ContainerExited | None = None
    for event in events:
        match event:
            case Resumed() if trial in event.restarted:
                failed = None
            case ContainerStarted(number=number) if failed and number == trial:
                failed = None if (event.pod, event.container) == (failed.pod, failed.container) else failed
            case ContainerExited(number=number) if number == trial and event.reason not in (COMPLETED, STOPPED):
                failed = failed or event
    return failed
