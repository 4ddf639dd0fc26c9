"""The API server of a cluster, objects as plain dictionaries. The only module that imports the `kubernetes` client."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from katuna.errors import ClusterRefused, ClusterUnreachable, InputRefused

if TYPE_CHECKING:
    from kubernetes.client import ApiClient
    from urllib3 import BaseHTTPResponse

Object = Mapping[str, Any]

TIMEOUT_S = (5.0, 30.0)
"""For a connection, and between two parts of an answer."""
WATCH_S = 300
"""After how long the server ends a watch, which then begins again."""
SILENCE_S = 60.0
"""After how long without a line a log is asked for anew: a connection that has died says nothing either."""

PATHS: Mapping[str, str] = {
    "Pod": "api/v1/{}/pods",
    "Event": "api/v1/{}/events",
    "ConfigMap": "api/v1/{}/configmaps",
    "Job": "apis/batch/v1/{}/jobs",
    "PyTorchJob": "apis/kubeflow.org/v1/{}/pytorchjobs",
    "TrainJob": "apis/trainer.kubeflow.org/v1alpha1/{}/trainjobs",
}
"""Where the API server has each kind that katuna reads or writes; {} stands for the namespace."""

_TRANSIENT = {408, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Change:
    """One line of a watch. `type` is ADDED, MODIFIED or DELETED."""

    type: str
    object: Object


class Api:
    """One namespace, as one user. Methods raise ClusterUnreachable for what another try may mend (no answer, an overloaded server) and
    ClusterRefused for an answer that stays."""

    def __init__(self, client: ApiClient, namespace: str) -> None:
        self._client = client
        self.namespace = namespace

    @classmethod
    def of_config(cls, context: str | None = None, namespace: str | None = None) -> Api:
        """As kubectl would choose: KUBECONFIG or ~/.kube/config, its current context unless `context` is given, else the pod's own service
        account. The namespace is the context's unless given. Raises InputRefused where nothing of that is there."""
        try:
            from kubernetes import config
        except ImportError as error:
            raise InputRefused("--on cluster needs the Kubernetes client: pip install 'katuna[cluster]'") from error
        try:
            contexts, active = config.list_kube_config_contexts()
            chosen = next((each for each in contexts if each["name"] == context), None) if context else active
            if chosen is None:
                names = ", ".join(each["name"] for each in contexts)
                raise InputRefused(f"--context {context}: the kubeconfig has no such context; it has {names}")
            client = config.new_client_from_config(context=chosen["name"])
            found = chosen["context"].get("namespace") or "default"
        except config.ConfigException as error:
            if context:
                raise InputRefused(f"--context {context}: {error}") from error
            client, found = _in_cluster(str(error))
        return cls(client, namespace or found)

    def create(self, kind: str, manifest: Object, *, dry_run: bool = False) -> Object:
        return self._json("POST", self._path(kind), {"dryRun": "All"} if dry_run else {}, manifest)

    def get(self, kind: str, name: str) -> Object | None:
        """None where there is no such object."""
        try:
            return self._json("GET", self._path(kind, name))
        except ClusterRefused as refused:
            if refused.status == 404:
                return None
            raise

    def delete(self, kind: str, name: str, grace_s: int | None = None) -> None:
        """With all that the object owns, in the background. What is not there is deleted already. `grace_s` is for a pod, which has its own
        without it."""
        query = {"propagationPolicy": "Background"} if grace_s is None else {"gracePeriodSeconds": str(grace_s)}
        try:
            self._json("DELETE", self._path(kind, name), query)
        except ClusterRefused as refused:
            if refused.status != 404:
                raise

    def delete_all(self, kind: str, selector: str) -> int:
        """Deletes the objects with these labels; how many there were."""
        found, _ = self.list(kind, selector)
        for each in found:
            self.delete(kind, each["metadata"]["name"])
        return len(found)

    def list(self, kind: str, selector: str = "") -> tuple[list[Object], str]:
        """The objects with these labels, and the version of the list, which a watch goes on from."""
        found = self._json("GET", self._path(kind), {"labelSelector": selector} if selector else {})
        return found["items"], found["metadata"]["resourceVersion"]

    def watch(self, kind: str, version: str, selector: str = "") -> Iterator[Change]:
        """What changes from `version` on, until the server ends it. Raises ClusterRefused with status 410 for a version too old."""
        query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": str(WATCH_S)}
        query |= {"labelSelector": selector} if selector else {}
        answer = self._call("GET", self._path(kind), query, read_s=WATCH_S + SILENCE_S)
        for line in self._lines(answer):
            said = json.loads(line)
            if said["type"] == "ERROR":
                status = said["object"]
                raise ClusterRefused(status.get("code") or 500, status.get("reason", ""), status.get("message", ""))
            yield Change(said["type"], said["object"])

    def log(self, pod: str, container: str, *, since: str = "", previous: bool = False, follow: bool = True) -> Iterator[bytes]:
        """Lines with their time, `2026-11-30T12:00:00.000000001Z text`, from the second of `since` on; ends with the container."""
        query = {"container": container, "timestamps": "true"}
        query |= {"follow": "true"} if follow else {}
        query |= {"previous": "true"} if previous else {}
        query |= {"sinceTime": since} if since else {}
        return self._lines(self._call("GET", f"{self._path('Pod', pod)}/log", query, read_s=SILENCE_S))

    def read(self, path: str) -> Object:
        """Whatever the API server has at a path."""
        return self._json("GET", path)

    def may(self, group: str, resource: str, verb: str) -> bool:
        """Whether this user may do so in the namespace."""
        name, _, below = resource.partition("/")
        asked = {"group": group, "resource": name, "subresource": below, "verb": verb, "namespace": self.namespace}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {key: value for key, value in asked.items() if value}},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        return bool(self._json("POST", path, body=review)["status"]["allowed"])

    def close(self) -> None:
        self._client.close()

    def _path(self, kind: str, name: str = "") -> str:
        return "/" + PATHS[kind].format(f"namespaces/{self.namespace}") + (f"/{name}" if name else "")

    def _json(self, method: str, path: str, query: Mapping[str, str] | None = None, body: Object | None = None) -> dict[str, Any]:
        answer = self._call(method, path, query or {}, body)
        try:
            found: dict[str, Any] = json.loads(answer.data)
        except ValueError as error:
            raise ClusterUnreachable(f"{path}: the answer is no JSON ({error})") from error
        return found

    def _call(
        self, method: str, path: str, query: Mapping[str, str], body: Object | None = None, *, read_s: float = TIMEOUT_S[1]
    ) -> BaseHTTPResponse:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        headers = {"Accept": "application/json", **({"Content-Type": "application/json"} if body is not None else {})}
        try:
            answer: BaseHTTPResponse = self._client.call_api(
                path,
                method,
                query_params=list(query.items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=(TIMEOUT_S[0], read_s),
            )
        except ApiException as error:
            raise _refused(error, path) from error
        except (HTTPError, OSError) as error:
            raise ClusterUnreachable(f"{self._client.configuration.host} does not answer ({_reason(error)})") from error
        return answer

    def _lines(self, answer: BaseHTTPResponse) -> Iterator[bytes]:
        from urllib3.exceptions import HTTPError

        pending = b""
        with closing(answer):
            try:
                for piece in answer.stream(65536, decode_content=False):
                    *lines, pending = (pending + piece).split(b"\n")
                    yield from lines
            except (HTTPError, OSError) as error:
                raise ClusterUnreachable(f"{self._client.configuration.host} broke off ({_reason(error)})") from error
        if pending:
            yield pending


def _in_cluster(why: str) -> tuple[ApiClient, str]:
    from kubernetes import client, config

    try:
        config.load_incluster_config()
    except config.ConfigException as error:
        raise InputRefused(
            f"no cluster is known: {why.rstrip('.')}; set KUBECONFIG, or copy the cluster's kubeconfig to ~/.kube/config"
        ) from error
    with open("/var/run/secrets/kubernetes.io/serviceaccount/namespace", encoding="utf-8") as file:  # noqa: PTH123
        return client.ApiClient(), file.read().strip()


def _refused(error: Any, path: str) -> ClusterRefused | ClusterUnreachable:
    """An answer of 400 and above, in the server's own words."""
    try:
        said = json.loads(error.body)
    except (ValueError, TypeError):
        said = {}
    message = said.get("message") or error.reason or "no reason given"
    if error.status in _TRANSIENT:
        after = (error.headers or {}).get("Retry-After", "")
        return ClusterUnreachable(f"{path}: {error.status} {message}", float(after) if after.isdigit() else 0.0)
    return ClusterRefused(error.status, said.get("reason", ""), message)


def _reason(error: BaseException) -> str:
    return str(getattr(error, "reason", None) or error).partition(": ")[2] or type(error).__name__
