"""A small client of the API server for the testbed itself, by the standard library: what is under test has its own."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

Object = dict[str, Any]


class KubeError(Exception):
    def __init__(self, status: int, body: str) -> None:
        self.status = status
        try:
            said = json.loads(body)["message"]
        except (ValueError, KeyError, TypeError):
            said = body[:500]
        super().__init__(f"{status} {said}")


class Kube:
    """The API server at a port of this machine, as the user of a token."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._token = token
        self._tls = ssl._create_unverified_context()  # noqa: S323
        self._plurals: dict[tuple[str, str], tuple[str, str, bool]] = {}

    def call(
        self, method: str, path: str, body: Object | None = None, kind: str = "application/json", timeout_s: float = 60
    ) -> Any:
        """The answer's JSON, or its text. Raises KubeError for a status of 400 and above, OSError."""
        connection, answer = self._ask(method, path, body, kind, timeout_s)
        text = answer.read().decode(errors="replace")
        connection.close()
        if answer.status >= 400:
            raise KubeError(answer.status, text)
        try:
            return json.loads(text)
        except ValueError:
            return text

    def _ask(
        self, method: str, path: str, body: Object | None, kind: str, timeout_s: float
    ) -> tuple[http.client.HTTPSConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, context=self._tls, timeout=timeout_s)
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json", "Content-Type": kind}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        return connection, connection.getresponse()

    def path_of(self, found: Object) -> str:
        """Of the collection that the object belongs to."""
        version, kind = found["apiVersion"], found["kind"]
        if (version, kind) not in self._plurals:
            base = f"/apis/{version}" if "/" in version else f"/api/{version}"
            for each in self.call("GET", base)["resources"]:
                if "/" not in each["name"]:
                    self._plurals[version, each["kind"]] = base, each["name"], each["namespaced"]
        base, plural, namespaced = self._plurals[version, kind]
        namespace = found["metadata"].get("namespace", "default")
        return f"{base}/namespaces/{namespace}/{plural}" if namespaced else f"{base}/{plural}"

    def apply(self, found: Object) -> Object:
        """As `kubectl apply --server-side --force-conflicts`."""
        path = f"{self.path_of(found)}/{found['metadata']['name']}?fieldManager=testbed&force=true"
        return self.call("PATCH", path, found, "application/apply-patch+yaml")  # type: ignore[no-any-return]

    def create(self, found: Object) -> Object:
        return self.call("POST", self.path_of(found), found)  # type: ignore[no-any-return]

    def get(self, path: str) -> Object:
        return self.call("GET", path)  # type: ignore[no-any-return]

    def patch(self, path: str, body: Object) -> Object:
        return self.call("PATCH", path, body, "application/merge-patch+json")  # type: ignore[no-any-return]

    def watch(self, path: str, **query: str) -> Iterator[tuple[str, Object]]:
        """All objects, then what changes, until the server ends it. Raises KubeError, OSError."""
        listed = self.call("GET", f"{path}?{urlencode(query)}")
        yield from (("ADDED", each) for each in listed["items"])
        more = {**query, "watch": "1", "resourceVersion": listed["metadata"]["resourceVersion"], "timeoutSeconds": "600"}
        connection, answer = self._ask("GET", f"{path}?{urlencode(more)}", None, "application/json", 700)
        for line in answer:
            change = json.loads(line)
            if change["type"] == "ERROR":
                break
            yield change["type"], change["object"]
        connection.close()
