"""A thread that lists the objects of one kind and then watches them, through outages of the API server."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass

from katuna.cluster.api import Api, Change, Object
from katuna.errors import ClusterRefused, ClusterUnreachable

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
FORGETFUL_S = 60.0
"""How long a server that knew a user may refuse him: one that has just been started does not know its roles yet."""


@dataclass(frozen=True)
class Seen:
    """An object in its latest state. `deleted`: it is gone, and this was its last state."""

    kind: str
    object: Object
    deleted: bool = False


@dataclass(frozen=True)
class Outage:
    """The API server does not answer the watch of a kind, or answers it again where `message` is empty."""

    kind: str
    message: str


Told = Seen | Outage | ClusterRefused


class Watcher(threading.Thread):
    """Puts all that it sees into `told`, each object at least once after each outage. Ends at `stop`, or with the ClusterRefused that it
    puts last."""

    def __init__(self, api: Api, kind: str, selector: str, told: queue.SimpleQueue[Told]) -> None:
        super().__init__(name=f"watch-{kind}", daemon=True)
        self._api = api
        self._kind = kind
        self._selector = selector
        self._told = told
        self._known: dict[str, Object] = {}
        self._known_once = False
        self._over = threading.Event()

    def stop(self) -> None:
        self._over.set()

    def run(self) -> None:
        version, pause_s, refused_since = "", FIRST_PAUSE_S, 0.0
        while not self._over.is_set():
            try:
                version = version or self._list()
                if pause_s > FIRST_PAUSE_S:
                    self._told.put(Outage(self._kind, ""))
                pause_s, refused_since, self._known_once = FIRST_PAUSE_S, 0.0, True
                for change in self._api.watch(self._kind, version, self._selector):
                    version = change.object["metadata"]["resourceVersion"]
                    self._take(change)
                    if self._over.is_set():
                        return
            except ClusterRefused as refused:
                version = ""
                if refused.status == 410:
                    continue
                refused_since = refused_since or time.monotonic()
                if not self._known_once or time.monotonic() > refused_since + FORGETFUL_S:
                    self._told.put(refused)
                    return
                self._over.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            except ClusterUnreachable as error:
                self._told.put(Outage(self._kind, str(error)))
                self._over.wait(max(pause_s, error.after_s))
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _list(self) -> str:
        items, version = self._api.list(self._kind, self._selector)
        here = {item["metadata"]["uid"]: item for item in items}
        for uid in self._known.keys() - here.keys():
            self._told.put(Seen(self._kind, self._known[uid], deleted=True))
        for item in items:
            self._told.put(Seen(self._kind, item))
        self._known = here
        return version

    def _take(self, change: Change) -> None:
        uid = change.object["metadata"].get("uid", "")
        if change.type == "DELETED":
            self._known.pop(uid, None)
        elif change.type in ("ADDED", "MODIFIED"):
            self._known[uid] = change.object
        else:
            return
        self._told.put(Seen(self._kind, change.object, deleted=change.type == "DELETED"))
