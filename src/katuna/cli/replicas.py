"""What a person sees while a training runs: a line for each thing that happens, and between them what its replicas print, under their names."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from katuna.cli.files import left_lines, surroundings
from katuna.cli.lines import Lines
from katuna.cli.screen import Screen
from katuna.cli.statusline import StatusLine
from katuna.jobs.lifecycle import ContainerExited, ContainerStarted
from katuna.runs.containers import first_failure
from katuna.search.trials import Ended, Event, Noted, Reported, Resumed, Search
from katuna.text import counted, duration, printable

if TYPE_CHECKING:
    from katuna.launch.local_options import LocalOptions
    from katuna.manifest.job import Job
    from katuna.runs.run import Run, Training

MOST_BYTES = 262144
"""What is shown of one log at one look; of more than that the older part is left out."""
PROGRESS_EVERY_S = 2.0
"""How often a progress bar's state is worth a line."""
LAST_LINES = 8
LAST_WIDTH = 400
COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "bright_cyan", "bright_magenta", "bright_yellow")

_STYLE = re.compile(r"\x1b\[[0-9;:]*[mK]")


@dataclass(frozen=True)
class Log:
    """A container's output. `label` is what a person calls it: `master-0`, `worker-1/sidecar`."""

    label: str
    pod: str
    container: str
    path: Path


def logs_of(job: Job, folder: Path) -> list[Log]:
    """The logs of all containers of a job whose folder this is, in the order of its pods, those that train before the others of their
    pods."""
    from katuna.launch.plan import log_of

    found = []
    for replica in job.replicas:
        own = label(job.name, replica.pod_name)
        for each in (replica.container, *replica.sidecars, *replica.init_containers):
            name = own if each is replica.container else f"{own}/{each.name}"
            found.append(Log(name, replica.pod_name, each.name, log_of(folder, job, replica.pod_name, each.name)))
    return found


def label(job: str, pod: str) -> str:
    """A pod's name without its job's, where that says enough."""
    short = pod.removeprefix(f"{job}-")
    return pod if short.isdigit() else short


class ReplicaScreen(Screen):
    """Prints the events of a training and the lines of its logs as they come, and on a terminal how it stands below them."""

    def __init__(self, ending: object = False) -> None:
        """`ending` is true once the job has been asked to end."""
        super().__init__()
        self._line = StatusLine()
        self._ending = ending
        self._job: Job | None = None
        self._labels: dict[tuple[str, str], str] = {}
        self._readers: list[_Reader] = []
        self._began: dict[tuple[str, str], float] = {}
        self._starts: Counter[tuple[str, str]] = Counter()
        self._metrics: dict[str, str] = {}
        self._since = time.monotonic()
        self._events: list[Event] = []
        self._told_ending = False

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Nothing is drawn any more: what comes next begins at the left."""
        self._line.write([])

    def _begin(self, run: Run) -> None:
        self._job = run.job_of(None)
        logs = logs_of(self._job, run.path)
        self._labels = {(log.pod, log.container): log.label for log in logs}
        self._readers = [_Reader(log, prefix, run.path) for log, prefix in zip(logs, prefixes(logs, self._line), strict=True)]
        self._line.write(introduction(run, self._job))

    def take(self, event: Event, search: Search) -> None:
        """Shown with the next `look`."""
        del search
        self._events.append(event)
        if isinstance(event, Ended):
            self.look()

    def look(self) -> None:
        """What is in the logs comes before the first end that is told of, and after what has started."""
        events, self._events = self._events, []
        over = any(isinstance(event, Ended) for event in events)
        ended = {(event.pod, event.container) for event in events if isinstance(event, ContainerExited)}
        ends = (number for number, event in enumerate(events) if isinstance(event, ContainerExited | Ended))
        first = next(ends, len(events))
        lines = [line for event in events[:first] for line in self._lines(event)]
        readers = [each for each in self._readers if over or each.container in ended or self._starts[each.container]]
        lines += [line for each in readers for line in each.lines(last=over or each.container in ended)]
        lines += [line for event in events[first:] for line in self._lines(event)]
        self._line.write([*self._asked_to_end(), *lines], "" if over else self._status())

    def _asked_to_end(self) -> Iterator[str]:
        """Said once."""
        if self._ending and not self._told_ending and self._job is not None:
            self._told_ending = True
            yield from ("", f"ending the replicas, which have {self._job.grace_s:g} s; Ctrl-C again ends them at once")

    def _lines(self, event: Event) -> Iterator[str]:
        match event:
            case Noted():
                yield printable(event.text)
            case Resumed():
                yield "resumed: every replica begins anew, from its checkpoints where it has left some"
            case Reported():
                self._metrics |= {report.metric: report.value for report in event.reports}
            case ContainerStarted():
                self._began[event.pod, event.container] = event.at
                yield f"{self._name(event)} {started(event, self._starts[event.pod, event.container])}"
                self._starts[event.pod, event.container] += 1
            case ContainerExited():
                took = event.at - self._began.pop((event.pod, event.container), event.at)
                yield f"{self._name(event)} {printable(exited(event))} after {duration(took)}"

    def closing_words(self, run: Run) -> None:
        from katuna.runs.run import Training

        assert isinstance(run, Training)
        self._line.write(closing(run))

    def _name(self, event: ContainerStarted | ContainerExited) -> str:
        return self._labels.get((event.pod, event.container), f"{event.pod}/{event.container}")

    def _status(self) -> str:
        """`digits  1m05s  2 running  epoch=3 loss=0.25`."""
        assert self._run is not None
        took = duration(int(time.monotonic() - self._since)).replace(".0s", "s")
        running = f"{len(self._began)} running" if self._began else f"nothing runs {'now' if self._starts else 'yet'}"
        if self._ending:
            running = "ending; Ctrl-C again ends it at once"
        return "  ".join(printable(word) for word in (self._run.name, took, running, in_words(self._metrics)) if word)


def prefixes(logs: Sequence[Log], line: StatusLine) -> list[str]:
    """What stands before each line of a log: whose it is."""
    width = max((len(log.label) for log in logs), default=0)
    return [line.styled(f"{log.label.ljust(width)} |", fg=COLOURS[number % len(COLOURS)]) for number, log in enumerate(logs)]


def in_words(metrics: Mapping[str, str]) -> str:
    """`epoch=3 loss=0.25`."""
    return " ".join(f"{name}={value}" for name, value in metrics.items())


class _Reader:
    """One log, as lines to be shown."""

    def __init__(self, log: Log, prefix: str, folder: Path) -> None:
        try:
            begin = log.path.stat().st_size
        except FileNotFoundError:
            begin = 0
        self.container = (log.pod, log.container)
        self._lines = Lines(log.path, begin)
        self._prefix = prefix
        self._file = log.path.relative_to(folder)
        self._shown_at = 0.0

    def lines(self, *, last: bool) -> Iterator[str]:
        left_out = self._lines.skip(MOST_BYTES)
        if left_out:
            yield f"{self._prefix} ... {left_out} left out here; all are in {self._file}"
        held = ""
        for text, is_state in self._lines.states(last=last, most_bytes=MOST_BYTES):
            held = ""
            if is_state:
                held = text
            else:
                yield self._shown(text)
        now = time.monotonic()
        if held.strip() and now - self._shown_at >= PROGRESS_EVERY_S:
            self._shown_at = now
            yield self._shown(held)

    def _shown(self, text: str) -> str:
        return f"{self._prefix} {printable(_STYLE.sub('', text).expandtabs())}".rstrip()


def how(process: Any) -> str:
    """`warm`, or `cold: why`; "" where a journal does not say."""
    why = process.get("why", "")
    return str(process.get("start", "")) + (f": {why}" if why else "")


def started(event: ContainerStarted, before: int) -> str:
    """`before` is how often it was started already, in its pod or in one before."""
    again = f" again (restart {before})" if before else ""
    start = how(event.process)
    if "node" in event.process:
        return printable(f"started{again} on {event.process['node'] or 'the cluster'}")
    return printable(f"started{again}, pid {event.process.get('pid')}" + (f" ({start})" if start else ""))


def exited(event: ContainerExited) -> str:
    if event.reason == "Completed":
        return "completed"
    if event.reason == "Stopped":
        return "stopped"
    code = "" if event.code is None else f", exit code {event.code}"
    return f"ended: {event.reason}{code}"


def replicas_in_words(job: Job) -> str:
    """`1 Master and 2 Workers`."""
    roles: dict[str, int] = {}
    for replica in job.replicas:
        roles[replica.role.capitalize() or "Pod"] = roles.get(replica.role.capitalize() or "Pod", 0) + 1
    return " and ".join(counted(number, role) for role, number in roles.items())


def introduction(run: Run, job: Job) -> list[str]:
    """What is about to happen, and what is otherwise here than on a cluster."""
    from katuna.launch.plan import reach

    options = run.options
    lines = [
        f"{run.name}: {job.kind} {job.name}, {replicas_in_words(job)}",
        *([f"other than the file says: {' '.join(options.overrides)}"] if options.overrides else []),
        *([] if options.cluster else (f"  {line}" for line in substituted(job, options.local))),
        *surroundings(run, "work/ in the run folder", lambda: reach(job, options.local, os.environ)),
        f"run folder {run.path}",
    ]
    return list(map(printable, lines))


def substituted(job: Job, local: LocalOptions) -> list[str]:
    """What stands for the cluster's addresses, numbers of processes and volumes, a line each."""
    from katuna.jobs.environment import substitutions

    injected = dict(job.replicas[0].injected)
    names = {each.pod_name for each in job.replicas}
    meeting = [
        injected.get("MASTER_ADDR", injected.get("PET_MASTER_ADDR")),
        injected.get("PET_RDZV_ENDPOINT", "").rpartition(":")[0],
    ]
    hosts = dict.fromkeys(host for host in meeting if host and host.partition(".")[0] in names)
    lines = [f"address {host} -> 127.0.0.1, at a free port" for host in hosts]
    told: dict[str, dict[str, None]] = {}
    for replica in job.replicas:
        for each in substitutions(job, replica):
            told.setdefault(f"{each.name} {each.instead_of or 'unset'} -> {{}} ({each.why})", {})[each.value] = None
    return [*lines, *(text.format(", ".join(values)) for text, values in told.items()), *volumes(job, local)]


def volumes(job: Job, local: LocalOptions) -> list[str]:
    """Where each volume of the pods lies here."""
    found: dict[str, None] = {}
    for volume in (each for replica in job.replicas for each in replica.volumes):
        here = {
            "emptyDir": "a folder that goes with the job",
            "hostPath": volume.source,
            "persistentVolumeClaim": local.claims.get(volume.source, "no folder here; --claim says which"),
        }.get(volume.kind, "files that go with the job")
        named = f" {volume.source}" if volume.source and volume.kind != "hostPath" else ""
        found[f"volume {volume.name} ({volume.kind}{named}) -> {here}"] = None
    return list(found)


def closing(run: Training) -> list[str]:
    """The end: condition, reason, last metrics, where everything lies, what to do next."""
    ended = run.ended
    assert ended is not None
    lines = ["", *_end(run, ended)]
    if run.metrics:
        lines.append(f"last metrics       {in_words(run.metrics)}")
    if run.state == "Suspended":
        return [*lines, f"start it           katuna resume {run.folder.handle}"]
    if (run.path / "export").is_dir() and ended.succeeded:
        lines.append(f"the model lies in  {run.path / 'export'}")
    lines += [f"it wrote           {line}" for line in left_lines(run.path)]
    lines += [
        f"what it printed    katuna logs {run.folder.handle}",
        f"how it stands      katuna show {run.folder.handle}",
        f"everything lies in {run.path}",
    ]
    return list(map(printable, lines))


def _end(run: Training, ended: Ended) -> Iterator[str]:
    """How it ended; after a failure which container failed first, how, and the end of its log."""
    took, failed = duration(ended.at - run.began_at), first_failure(run.events)
    if run.state != "Failed":
        yield printable(f"{': '.join(filter(None, [run.state, ended.message]))} ({took})")
        return
    # What the container's own end says is told below, with its log.
    of_the_job = failed is None or ended.reason != failed.reason
    why = f": {ended.reason}: {ended.message or 'no more is known'}" if of_the_job else ""
    yield f"Failed{why} ({took})"
    if failed is not None:
        yield from _last_words(run, failed)


def _last_words(run: Training, failed: ContainerExited) -> Iterator[str]:
    from katuna.launch.plan import rank_of
    from katuna.log import last_lines, latest_attempt

    log = next(log for log in logs_of(run.job, run.path) if (log.pod, log.container) == (failed.pod, failed.container))
    replica = next(each for each in run.job.replicas if each.pod_name == failed.pod)
    said = last_lines(log.path, latest_attempt(log.path), count=LAST_LINES, width=LAST_WIDTH)
    file = f"{run.name}/{log.path.relative_to(run.path)}"
    how = f"{failed.reason}, exit code {failed.code}" if failed.code is not None else failed.reason
    why = failed.message.partition("; its log")[0]
    more = "" if why == f"it exited with code {failed.code}" else f": {why}"
    where = f"; the last lines of {file}:" if said else f"; {file} is empty"
    rank = "" if run.job.kind == "Job" else f", rank {rank_of(replica)},"
    yield f"{log.label}{rank} ended: {how}{more}{where}"
    yield from (f"  {line}" for line in said)
