"""A container's own environment: values, fields of the pod, and entries of ConfigMaps given beside the job (never of Secrets)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from katuna.errors import LOCAL
from katuna.spec.model import Manifest
from katuna.spec.remark import NUL, NUL_MESSAGE, Path, Remark, listed, shown

_FIELD_KEY = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]\Z")
_FIELDS = ("metadata.name", "metadata.namespace", "status.podIP", "status.hostIP", "spec.nodeName")


@dataclass(frozen=True)
class Facts:
    """What the downward API can tell a container about its pod."""

    pod_name: str
    namespace: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    def get(self, field_path: str) -> str | None:
        """None for a field that does not exist here. Addresses are the loopback's: replicas run on one machine."""
        keyed = _FIELD_KEY.match(field_path)
        if keyed:
            return (self.labels if keyed[1] == "labels" else self.annotations).get(keyed[2], "")
        simple = {"metadata.name": self.pod_name, "metadata.namespace": self.namespace, "spec.nodeName": "localhost"}
        return simple.get(field_path, "127.0.0.1" if field_path in _FIELDS else None)


@dataclass(frozen=True)
class Env:
    """`pairs` in order and unexpanded; `secrets` are names whose values only the calling shell can give."""

    pairs: tuple[tuple[str, str], ...]
    secrets: tuple[str, ...]
    remarks: tuple[Remark, ...]


def find_config_map(config_maps: Sequence[Manifest], name: str, namespace: str) -> Manifest | None:
    """The ConfigMap document of that name. One without a namespace goes wherever `kubectl apply -n` sends it: it matches."""
    for config_map in config_maps:
        metadata = config_map.get("metadata") or {}
        if metadata.get("name") == name and metadata.get("namespace", namespace) == namespace:
            return config_map
    return None


def container_env(
    container: Mapping[str, Any], facts: Facts, config_maps: Sequence[Manifest], pass_env: Collection[str] | None
) -> Env:
    """The environment that the container's `envFrom` and `env` ask for; paths of the remarks are the container's own.

    `pass_env` names variables that the calling shell gives in a Secret's place; None stands for all.
    """
    reader = _Reader(facts, config_maps, pass_env)
    for index, source in enumerate(container.get("envFrom") or []):
        reader.read_all(source, ("envFrom", index))
    for index, entry in enumerate(container.get("env") or []):
        reader.read(entry, ("env", index))
    return Env(tuple(reader.pairs), tuple(reader.secrets), tuple(reader.remarks))


@dataclass
class _Reader:
    facts: Facts
    config_maps: Sequence[Manifest]
    pass_env: Collection[str] | None
    pairs: list[tuple[str, str]] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)

    def read_all(self, source: Mapping[str, Any], path: Path) -> None:
        if source.get("secretRef"):
            if not source["secretRef"].get("optional"):
                message, hint = "all variables of a Secret: there are no Secrets here", "name each in env, and pass it"
                self.remarks.append(Remark((*path, "secretRef"), message, hint, on=LOCAL, code="no-secret"))
            return
        reference = source.get("configMapRef") or {}
        prefix = source.get("prefix") or ""
        for key, value in self._entries(reference, (*path, "configMapRef")):
            self._add(prefix + key, _literal(value), (*path, "configMapRef"), (*path, "configMapRef"))

    def read(self, entry: Mapping[str, Any], path: Path) -> None:
        name, origin = str(entry["name"]), entry.get("valueFrom")
        if not origin:
            self._add(name, str(entry.get("value") or ""), (*path, "value"), (*path, "name"))
        elif "fieldRef" in origin:
            self._read_field(
                name, str((origin["fieldRef"] or {}).get("fieldPath")), (*path, "valueFrom", "fieldRef", "fieldPath")
            )
        elif "configMapKeyRef" in origin:
            self._read_key(name, origin["configMapKeyRef"] or {}, (*path, "valueFrom", "configMapKeyRef"))
        else:
            self._read_elsewhere(name, origin, (*path, "valueFrom"))

    def _read_field(self, name: str, field_path: str, path: Path) -> None:
        value = self.facts.get(field_path)
        if value is None:
            message, hint = f"{field_path} of the pod is not known here", f"known: {listed(_FIELDS)}, metadata.labels['KEY']"
            self.remarks.append(Remark(path, message, hint, on=LOCAL, code="no-pod-field"))
        else:
            self._add(name, _literal(value), path, (*path[:-3], "name"))

    def _read_key(self, name: str, reference: Mapping[str, Any], path: Path) -> None:
        entries = dict(self._entries(reference, path))
        key = reference.get("key", "")
        if key in entries:
            self._add(name, _literal(entries[key]), path, (*path[:-2], "name"))
        elif entries and not reference.get("optional"):
            message = f"the ConfigMap {reference.get('name')} has no key {key!r}"
            hint = f"it has: {listed(sorted(entries))}"
            self.remarks.append(Remark((*path, "key"), message, hint, on=LOCAL, code="no-config-map-key"))

    def _read_elsewhere(self, name: str, origin: Mapping[str, Any], path: Path) -> None:
        kind = next(iter(origin), "")
        reference = origin.get(kind) or {}
        if self.pass_env is None or name in self.pass_env:
            self.secrets.append(name)
        elif not (isinstance(reference, dict) and reference.get("optional")):
            what = "a Secret" if kind == "secretKeyRef" else kind or "nothing"
            message, hint = f"the value of {name} comes from {what}, which is not here", f"--pass-env {name} passes your shell's"
            self.remarks.append(Remark((*path, kind) if kind else path, message, hint, on=LOCAL, code="no-secret"))

    def _entries(self, reference: Mapping[str, Any], path: Path) -> Iterator[tuple[str, str]]:
        name = str(reference.get("name", ""))
        found = find_config_map(self.config_maps, name, self.facts.namespace)
        if found is not None:
            yield from (found.get("data") or {}).items()
        elif not reference.get("optional"):
            message = f"the ConfigMap {name} in namespace {self.facts.namespace} is not among the files given"
            self.remarks.append(Remark(path, message, "give its file beside this one", on=LOCAL, code="no-config-map"))

    def _add(self, name: str, value: str, value_path: Path, name_path: Path) -> None:
        """Keeps a variable, unless it is none: the kernel ends names at `=`, and both texts at NUL."""
        if NUL in name or "=" in name:
            message, hint = f"{shown(name)} is not a name for a variable", "no '=' and no control characters"
            self.remarks.append(Remark(name_path, message, hint, code="variable-name"))
        elif NUL in value:
            self.remarks.append(Remark(value_path, f"the value of {shown(name)} {NUL_MESSAGE}", code="nul"))
        else:
            self.pairs.append((name, value))


def _literal(value: str) -> str:
    """Kubernetes expands no `$(NAME)` in values that come from elsewhere."""
    return value.replace("$", "$$")
