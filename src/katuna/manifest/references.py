"""Documents that a job refers to by name, and what ConfigMaps and Secrets among them hold.

A Secret's values are for processes alone: no message of this module holds one.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from katuna.manifest.diagnostic import Remark, shown
from katuna.manifest.experiment import Manifest

REFERENCE_KINDS = (
    ("v1", "ConfigMap"),
    ("v1", "Secret"),
    ("trainer.kubeflow.org/v1alpha1", "TrainingRuntime"),
    ("trainer.kubeflow.org/v1alpha1", "ClusterTrainingRuntime"),
)
"""(apiVersion, kind) of the documents that a job may refer to."""

Holder = Literal["ConfigMap", "Secret"]

_KEY = re.compile(r"(?!\.\.|\.\Z)[-._a-zA-Z0-9]{1,253}\Z")


def find(documents: Sequence[Manifest], kind: str, name: str, namespace: str) -> Manifest | None:
    """The document of that kind and name, or None. A document without a namespace matches every namespace, as `kubectl apply -n`
    may send it anywhere. A document without a kind is a ConfigMap."""
    for document in documents:
        metadata = document.get("metadata") or {}
        there = (document.get("kind", "ConfigMap"), metadata.get("name"), metadata.get("namespace", namespace))
        if there == (kind, name, namespace):
            return document
    return None


def entries(document: Manifest) -> dict[str, bytes]:
    """The entries of a ConfigMap or a Secret by key, without the entries that `check_held` refuses."""
    coded, plain = _FIELDS[document.get("kind", "ConfigMap")]
    decoded = {key: _decoded(value) for key, value in _texts(document, coded)}
    texts = {key: value.encode("utf-8", "surrogateescape") for key, value in _texts(document, plain)}
    return {key: value for key, value in decoded.items() if value is not None} | texts


def check_held(document: Mapping[str, Any]) -> Iterator[Remark]:
    """Remarks on keys and values that an API server refuses in a ConfigMap or a Secret. No remark quotes a value."""
    coded, plain = _FIELDS[document["kind"]]
    for field in (coded, plain):
        held = document.get(field)
        if held is not None and not isinstance(held, dict):
            yield Remark((field,), "must be a mapping", code="wrong-type")
            continue
        for key, value in (held or {}).items():
            if not _KEY.match(key):
                message = f"{shown(key)} is no key of at most 253 characters"
                yield Remark((field, key), message, "letters, digits, '-', '_' and '.'", at_key=True, code="bad-key")
            elif not isinstance(value, str):
                yield Remark((field, key), "must be text", "write it in quotes", code="wrong-type")
            elif field == coded and _decoded(value) is None:
                yield Remark((field, key), "must be base64", f"{plain} takes plain text", code="wrong-type")


_FIELDS = {"Secret": ("data", "stringData"), "ConfigMap": ("binaryData", "data")}
"""By kind: the field of base64 entries, and the field of text entries."""


def _texts(document: Manifest, field: str) -> Iterator[tuple[str, str]]:
    held = document.get(field)
    for key, value in held.items() if isinstance(held, dict) else ():
        if isinstance(value, str):
            yield key, value


def _decoded(value: str) -> bytes | None:
    """The bytes, None where the text is not base64."""
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
