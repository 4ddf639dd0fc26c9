"""A container's own environment: values, fields of the pod, and entries of ConfigMaps and Secrets given with the job."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from katuna.errors import LOCAL
from katuna.manifest.diagnostic import NUL, NUL_MESSAGE, Path, Remark, listed, shown
from katuna.manifest.experiment import Manifest
from katuna.manifest.hidden import Hidden, Text
from katuna.manifest.references import Holder, entries, find

_FIELD_KEY = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]\Z")
_ADDRESSES = ("status.podIP", "status.podIPs", "status.hostIP", "status.hostIPs")
_FIELDS = ("metadata.name", "metadata.namespace", "spec.nodeName", "spec.serviceAccountName", *_ADDRESSES)
_SOURCES = ("fieldRef", "configMapKeyRef", "secretKeyRef")
_HOLDERS: Mapping[str, Holder] = {"configMapKeyRef": "ConfigMap", "secretKeyRef": "Secret"}


@dataclass(frozen=True)
class Facts:
    """The fields of a pod that a container can refer to; `pod` is the pod's spec."""

    pod_name: str
    namespace: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    pod: Mapping[str, Any] = field(default_factory=dict)

    def get(self, field_path: str) -> str | None:
        """The field's value, None for a field that katuna does not know. Addresses are the loopback's: replicas run on one machine."""
        keyed = _FIELD_KEY.match(field_path)
        if keyed:
            return (self.labels if keyed[1] == "labels" else self.annotations).get(keyed[2], "")
        simple = {
            "metadata.name": self.pod_name,
            "metadata.namespace": self.namespace,
            "spec.nodeName": "localhost",
            "spec.serviceAccountName": self.pod.get("serviceAccountName") or "default",
        }
        return simple.get(field_path, "127.0.0.1" if field_path in _ADDRESSES else None)


@dataclass(frozen=True)
class Env:
    """`pairs` are in order and not expanded. `secrets` are names whose values only the calling shell can give."""

    pairs: tuple[tuple[str, Text], ...]
    secrets: tuple[str, ...]
    remarks: tuple[Remark, ...]


def container_env(
    container: Mapping[str, Any], facts: Facts, references: Sequence[Manifest], pass_env: Collection[str] | None
) -> Env:
    """The environment that the container's `envFrom` and `env` ask for; paths of the remarks are the container's own.

    `references` are the documents given with the job. `pass_env` names the variables that the calling shell gives in a Secret's place;
    None stands for all.
    """
    reader = _Reader(facts, references, pass_env)
    for index, source in enumerate(container.get("envFrom") or []):
        reader.read_all(source, ("envFrom", index))
    for index, entry in enumerate(container.get("env") or []):
        reader.read(entry, ("env", index))
    return Env(tuple(reader.pairs), tuple(reader.secrets), tuple(reader.remarks))


@dataclass
class _Reader:
    facts: Facts
    references: Sequence[Manifest]
    pass_env: Collection[str] | None
    pairs: list[tuple[str, Text]] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)

    def read_all(self, source: Mapping[str, Any], path: Path) -> None:
        if self._is_unclear(source, ("configMapRef", "secretRef"), path):
            return
        kind: Holder = "Secret" if source.get("secretRef") else "ConfigMap"
        field_name = "secretRef" if kind == "Secret" else "configMapRef"
        reference, path = source.get(field_name) or {}, (*path, field_name)
        held = self._held(kind, reference)
        if held is None:
            self._missing(kind, reference, path)
        for key, value in (held or {}).items():
            self._add((source.get("prefix") or "") + key, _literal(value), path, path, kind)

    def read(self, entry: Mapping[str, Any], path: Path) -> None:
        name, origin = str(entry["name"]), entry.get("valueFrom")
        if origin is None:
            self._add(name, str(entry.get("value") or ""), (*path, "value"), (*path, "name"))
        elif entry.get("value"):
            message = f"{name} has a value and a valueFrom: a cluster refuses it"
            self.remarks.append(Remark((*path, "valueFrom"), message, "keep one of the two", at_key=True, code="one-source"))
        elif not self._is_unclear(origin, tuple(origin), (*path, "valueFrom")):
            ((kind, reference),) = origin.items()
            self._read_from(kind, name, reference or {}, (*path, "valueFrom", kind))

    def _read_from(self, kind: str, name: str, reference: Mapping[str, Any], path: Path) -> None:
        holder = _HOLDERS.get(kind)
        held = self._held(holder, reference) if holder else None
        if kind == "fieldRef":
            self._read_field(name, str(reference.get("fieldPath")), (*path, "fieldPath"))
        elif holder is None or (holder == "Secret" and held is None):
            self._from_the_shell(name, kind, reference, path)
        elif held is None:
            self._missing(holder, reference, path)
        elif reference.get("key", "") in held:
            self._add(name, _literal(held[reference.get("key", "")]), path, (*path[:-2], "name"), holder)
        elif not reference.get("optional"):
            hint = f"it has: {listed(sorted(held))}" if held else "it is empty"
            message = f"the {holder} {reference.get('name')} has no key {reference.get('key', '')!r}"
            self.remarks.append(Remark((*path, "key"), message, hint, on=LOCAL, code="no-config-map-key"))

    def _is_unclear(self, source: Mapping[str, Any], kinds: Sequence[str], path: Path) -> bool:
        """Whether a source names no kind of `kinds`, or several kinds; a remark says so."""
        given = [kind for kind in kinds if kind in source]
        if len(given) != 1:
            hint = f"keep one of: {listed(given)}" if given else f"write one of: {listed(kinds or _SOURCES)}"
            self.remarks.append(Remark(path, "must name one source", hint, code="one-source"))
        return len(given) != 1

    def _read_field(self, name: str, field_path: str, path: Path) -> None:
        value = self.facts.get(field_path)
        if value is None:
            message, hint = f"{field_path} of the pod is not known here", f"known: {listed(_FIELDS)}, metadata.labels['KEY']"
            self.remarks.append(Remark(path, message, hint, on=LOCAL, code="no-pod-field"))
        else:
            self._add(name, _literal(value), path, (*path[:-3], "name"))

    def _from_the_shell(self, name: str, kind: str, reference: Mapping[str, Any], path: Path) -> None:
        if self.pass_env is None or name in self.pass_env:
            self.secrets.append(name)
        elif not reference.get("optional"):
            source = f"the Secret {reference.get('name', '')}" if kind == "secretKeyRef" else kind
            message, hint = (
                f"the value of {name} comes from {source}, which is not here",
                f"--pass-env {name} passes your shell's",
            )
            self.remarks.append(Remark(path, message, hint, on=LOCAL, code="no-secret"))

    def _held(self, kind: Holder, reference: Mapping[str, Any]) -> dict[str, str] | None:
        """The texts of the ConfigMap or Secret, None when it is not among the documents."""
        found = find(self.references, kind, str(reference.get("name", "")), self.facts.namespace)
        if found is None:
            return None
        return {key: value.decode("utf-8", "surrogateescape") for key, value in entries(found).items()}

    def _missing(self, kind: Holder, reference: Mapping[str, Any], path: Path) -> None:
        if reference.get("optional") or (kind == "Secret" and self.pass_env is None):
            return
        message = f"the {kind} {reference.get('name', '')} in namespace {self.facts.namespace} is not among the files given"
        hint, code = "give its file beside this one", "no-config-map"
        if kind == "Secret":
            hint, code = f"{hint}, or name each in env, and pass it", "no-secret"
        self.remarks.append(Remark(path, message, hint, on=LOCAL, code=code))

    def _add(self, name: str, value: str, value_path: Path, name_path: Path, kind: str = "") -> None:
        """Keeps a variable that a process can be given: its name holds no `=`, and neither text holds NUL."""
        if NUL in name or "=" in name:
            message, hint = f"{shown(name)} is not a name for a variable", "no '=' and no control characters"
            self.remarks.append(Remark(name_path, message, hint, code="variable-name"))
        elif NUL in value:
            self.remarks.append(Remark(value_path, f"the value of {shown(name)} {NUL_MESSAGE}", code="nul"))
        else:
            self.pairs.append((name, Hidden(value) if kind == "Secret" else value))


def _literal(value: str) -> str:
    """The value as env writes it: Kubernetes expands `$(NAME)` only in values of the manifest itself."""
    return value.replace("$", "$$")
