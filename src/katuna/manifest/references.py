"""Documents that a job refers to by name, and what ConfigMaps and Secrets among them hold.

A Secret's values are for processes alone: nothing here puts one into a message.
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
"""(apiVersion, kind) of what a job may refer to."""

Holder = Literal["ConfigMap", "Secret"]

_KEY = re.compile(r"(?!\.\.|\.\Z)[-._a-zA-Z0-9]{1,253}\Z")


def find(documents: Sequence[Manifest], kind: str, name: str, namespace: str) -> Manifest | None:
    """The document of that kind and name. One without a namespace goes wherever `kubectl apply -n` sends it: it matches. A
    document that names no kind is a ConfigMap."""
    for document in documents:
        metadata = document.get("metadata") or {}
        there = (document.get("kind", "ConfigMap"), metadata.get("name"), metadata.get("namespace", namespace))
        if there == (kind, name, namespace):
            return document
    return None


def entries(document: Manifest) -> dict[str, bytes]:
    """What a ConfigMap or a Secret holds, by key; without what `check_held` refuses."""
    coded, plain = _FIELDS[document.get("kind", "ConfigMap")]
    decoded = {key: _decoded(value) for key, value in _texts(document, coded)}
    texts = {key: value.encode("utf-8", "surrogateescape") for key, value in _texts(document, plain)}
    return {key: value for key, value in decoded.items() if value is not None} | texts


def check_held(document: Mapping[str, Any]) -> Iterator[Remark]:
    """What an API server refuses of a ConfigMap or a Secret beyond its fields, without a word of what is in it."""
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
"""By kind: what holds base64, and what holds text."""


def _texts(document: Manifest, field: str) -> Iterator[tuple[str, str]]:
    held = document.get(field)
    for key, value in held.items() if isinstance(held, dict) else ():
        if isinstance(value, str):
            yield key, value


def _decoded(value: str) -> bytes | None:
    """None for what is no base64."""
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
