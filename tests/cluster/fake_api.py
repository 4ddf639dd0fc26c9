"""An API server with the controllers of a cluster, in this process: as much of it as the launcher asks for, driven by scripts."""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from contracts.launcher_contract import Behaviour
from katuna.cluster.api import Change
from katuna.errors import ClusterRefused

Object = dict[str, Any]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class _Log:
    """Of one run of a container."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.over = False

    def add(self, text: str, times: int = 1) -> None:
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z").encode()
        self.lines += [at + b" " + text.encode()] * times


class FakeApi:
    """Stands for `cluster.api.Api`. A job that is created gets one pod, whose container behaves as `behaviour` says of the job's name; its
    last end is the job's. `refuse` may raise for a call, by its method and kind."""

    def __init__(self, behaviour: Callable[[str], Behaviour]) -> None:
        self.namespace = "lab"
        self.calls: list[tuple[str, str]] = []
        self.refuse: Callable[[str, str], None] = lambda method, kind: None
        self._behaviour = behaviour
        self._objects: dict[tuple[str, str], Object] = {}
        self._logs: dict[tuple[str, int], _Log] = {}
        self._watchers: list[tuple[str, queue.SimpleQueue[Change | None]]] = []
        self._terms: dict[str, threading.Event] = {}
        self._kills: dict[str, threading.Event] = {}
        self._lock = threading.RLock()
        self._threads: list[threading.Thread] = []
        self._version = 0

    # As Api has it

    def create(self, kind: str, manifest: Object, *, dry_run: bool = False) -> Object:
        self._called("create", kind)
        name = manifest["metadata"]["name"]
        with self._lock:
            if (kind, name) in self._objects:
                raise ClusterRefused(409, "AlreadyExists", f"{kind} {name} already exists")
            made = {**manifest, "metadata": {**manifest["metadata"], "uid": str(uuid.uuid4())}, "status": {}}
            if dry_run:
                return made
            self._put(kind, made)
        if kind in ("Job", "PyTorchJob"):
            self._spawn(made)
        return made

    def get(self, kind: str, name: str) -> Object | None:
        self._called("get", kind)
        return self._objects.get((kind, name))

    def delete(self, kind: str, name: str, grace_s: int | None = None) -> None:
        self._called("delete", kind)
        if kind == "Pod":
            self._kills[name].set()
        elif found := self._objects.get((kind, name)):
            self._remove(kind, found)
            if name in self._terms:
                self._terms[name].set()
        del grace_s

    def list(self, kind: str, selector: str = "") -> tuple[list[Object], str]:
        self._called("list", kind)
        del selector
        with self._lock:
            return [each for (of, _), each in self._objects.items() if of == kind], str(self._version)

    def watch(self, kind: str, version: str, selector: str = "") -> Iterator[Change]:
        self._called("watch", kind)
        del selector
        told: queue.SimpleQueue[Change | None] = queue.SimpleQueue()
        with self._lock:
            self._watchers.append((kind, told))
            for (of, _), each in list(self._objects.items()):
                if of == kind and int(each["metadata"]["resourceVersion"]) > int(version):
                    told.put(Change("MODIFIED", each))
        while (change := told.get()) is not None:
            yield change

    def log(self, pod: str, container: str, *, since: str = "", previous: bool = False, follow: bool = True) -> Iterator[bytes]:
        self._called("log", container)
        runs = sorted(number for name, number in self._logs if name == pod)
        if previous and len(runs) < 2:
            raise ClusterRefused(400, "BadRequest", "previous terminated container not found")
        return self._lines(self._logs[pod, runs[-2] if previous else runs[-1]], since, follow=follow)

    @staticmethod
    def _lines(log: _Log, since: str, *, follow: bool) -> Iterator[bytes]:
        sent = 0
        while True:
            over = log.over
            for line in log.lines[sent:]:
                sent += 1
                if line[: len(since) - 1].decode() >= since[:-1]:
                    yield line
            if over or not follow:
                return
            time.sleep(0.005)

    # What a test asks for

    def break_off(self) -> None:
        """Ends all watches."""
        with self._lock:
            for _, told in self._watchers:
                told.put(None)
            self._watchers.clear()

    def warn(self, about: Object, reason: str, message: str) -> None:
        involved = {"kind": about.get("kind", "Pod"), "name": about["metadata"]["name"], "uid": about["metadata"]["uid"]}
        name = f"event-{self._version}"
        self._put(
            "Event",
            {"metadata": {"name": name, "uid": name}, "type": "Warning", "reason": reason, "message": message}
            | {"involvedObject": involved},
        )

    def close(self) -> None:
        for event in (*self._terms.values(), *self._kills.values()):
            event.set()
        self.break_off()
        for thread in self._threads:
            thread.join(10)

    # Controllers

    def _called(self, method: str, kind: str) -> None:
        self.calls.append((method, kind))
        self.refuse(method, kind)

    def _put(self, kind: str, found: Object, change: str = "MODIFIED") -> None:
        with self._lock:
            self._version += 1
            made = {**found, "metadata": {**found["metadata"], "resourceVersion": str(self._version)}}
            self._objects[kind, made["metadata"]["name"]] = made
            for of, told in self._watchers:
                if of == kind:
                    told.put(Change(change, made))

    def _remove(self, kind: str, found: Object) -> None:
        with self._lock:
            self._version += 1
            self._objects.pop((kind, found["metadata"]["name"]), None)
            made = {**found, "metadata": {**found["metadata"], "resourceVersion": str(self._version)}}
            for of, told in self._watchers:
                if of == kind:
                    told.put(Change("DELETED", made))

    def _spawn(self, job: Object) -> None:
        name = job["metadata"]["name"]
        self._terms[name] = threading.Event()
        self._kills[f"{name}-abcde"] = threading.Event()
        thread = threading.Thread(target=self._live, args=(job,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _live(self, job: Object) -> None:
        name, kind = job["metadata"]["name"], job["kind"]
        behaviour: Behaviour | None = self._behaviour(name)
        container = job["spec"]["template"]["spec"]["containers"][0]["name"]
        owner = {"kind": kind, "name": name, "uid": job["metadata"]["uid"]}
        pod: Object = {
            "metadata": {
                "name": f"{name}-abcde",
                "uid": str(uuid.uuid4()),
                "labels": {"batch.kubernetes.io/job-name": name},
                "ownerReferences": [owner],
            },
            "spec": {"nodeName": "node-1"},
        }
        last: Object = {}
        number = 0
        while behaviour is not None:
            status = {"name": container, "restartCount": number, **({"lastState": last} if last else {})}
            if behaviour.code is None:
                ended = {"exitCode": 128, "reason": "StartError", "message": "no such file", "finishedAt": _now()}
            else:
                log = self._logs[pod["metadata"]["name"], number] = _Log()
                self._show(pod, {**status, "state": {"running": {"startedAt": _now()}}})
                code = self._run(behaviour, log, name, pod["metadata"]["name"])
                log.over = True
                ended = {"exitCode": code, "reason": "Completed" if code == 0 else "Error", "finishedAt": _now()}
            self._show(pod, {**status, "state": {"terminated": ended}})
            again = ended["exitCode"] and behaviour.then and not self._terms[name].is_set()
            behaviour, last, number = behaviour.then if again else None, {"terminated": ended}, number + 1
        if ("Job", name) in self._objects:
            done = {
                "type": "Complete" if ended["exitCode"] == 0 else "Failed",
                "status": "True",
                "reason": "BackoffLimitExceeded",
            }
            self._put(kind, {**self._objects[kind, name], "status": {"conditions": [done]}})
        self._terms[name].wait()
        self._remove("Pod", pod)

    def _show(self, pod: Object, status: Object) -> None:
        self._put("Pod", {**pod, "status": {"phase": "Running", "containerStatuses": [status]}})

    def _run(self, behaviour: Behaviour, log: _Log, name: str, pod: str) -> int:
        """Exit code."""
        term, kill = self._terms[name], self._kills[pod]
        if behaviour.prints:
            log.add(behaviour.prints)
        for value in behaviour.values:
            time.sleep(behaviour.pause_s)
            log.add(f"accuracy={value}")
        for _ in range(behaviour.flood // 1000):
            log.add("accuracy=0.5", 1000)
            if term.is_set() and not behaviour.ignores_term:
                return 143
        while behaviour.hangs:
            if kill.is_set():
                return 137
            if term.is_set() and not behaviour.ignores_term:
                return 143
            time.sleep(0.005)
        return behaviour.code or 0
