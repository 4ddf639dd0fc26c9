"""Documents given beside a job that it refers to by name, and what ConfigMaps and Secrets among them hold.

A Secret's values are for processes alone: nothing here puts one into a message.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from katuna.spec.model import Manifest
from katuna.spec.remark import Remark

BESIDE = (
    ("v1", "ConfigMap"),
    ("v1", "Secret"),
    ("trainer.kubeflow.org/v1alpha1", "TrainingRuntime"),
    ("trainer.kubeflow.org/v1alpha1", "ClusterTrainingRuntime"),
)
"""(apiVersion, kind) of what a job may refer to."""

Holder = Literal["ConfigMap", "Secret"]


def find(documents: Sequence[Manifest], kind: str, name: str, namespace: str) -> Manifest | None:
    """The document of that kind and name. One without a namespace goes wherever `kubectl apply -n` sends it: it matches. A
    document that names no kind is a ConfigMap."""
    for document in documents:
        metadata = document.get("metadata") or {}
        if (document.get("kind", "ConfigMap"), metadata.get("name"), metadata.get("namespace", namespace)) == (
            kind,
            name,
            namespace,
        ):
            return document
    return None


def entries(document: Manifest) -> dict[str, bytes]:
    """What a ConfigMap or a Secret holds, by key. Raises ValueError, which names the key, for what is no base64."""
    coded = "data" if document.get("kind") == "Secret" else "binaryData"
    plain = "stringData" if document.get("kind") == "Secret" else "data"
    found = {key: _decoded(key, value) for key, value in (document.get(coded) or {}).items()}
    return found | {key: str(value).encode("utf-8", "surrogateescape") for key, value in (document.get(plain) or {}).items()}


def check_secret(secret: Mapping[str, Any]) -> Iterator[Remark]:
    """What an API server refuses of a Secret, without a word of what is in it."""
    for field in ("data", "stringData"):
        held = secret.get(field)
        if held is not None and not isinstance(held, dict):
            yield Remark((field,), "must be a mapping", code="wrong-type")
            continue
        for key, value in (held or {}).items():
            if not isinstance(value, str):
                yield Remark((field, key), "must be text", "write it in quotes", code="wrong-type")
            elif field == "data" and not _is_base64(value):
                yield Remark((field, key), "must be base64", "stringData takes plain text", code="wrong-type")


def _decoded(key: str, value: str) -> bytes:
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{key} is no base64") from None


def _is_base64(value: str) -> bool:
    try:
        _decoded("", value)
    except ValueError:
        return False
    return True
