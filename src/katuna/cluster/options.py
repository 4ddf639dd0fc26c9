"""What a user may say about running on a cluster, as plain data that the journal records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

CodeWay = Literal["configmap", "none"]


@dataclass(frozen=True)
class ClusterOptions:
    """`context` is the kubeconfig's, "" for its current one; `namespace` is the context's where it is "". With `code` "none" the image
    holds the code."""

    context: str = ""
    namespace: str = ""
    code: CodeWay = "configmap"
    queue: str = ""
    """The LocalQueue of Kueue that admits the jobs; "" for none, or for the file's own."""

    def as_json(self) -> dict[str, Any]:
        return {"context": self.context, "namespace": self.namespace, "code": self.code, "queue": self.queue}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ClusterOptions:
        return cls(data["context"], data["namespace"], data["code"], data.get("queue", ""))
