"""The volumes of a pod on this machine: scratch folders, folders of the machine, claims, files from ConfigMaps and Secrets."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

from katuna.errors import LOCAL
from katuna.manifest.diagnostic import Path, Remark, listed, one_of, shown
from katuna.manifest.experiment import Manifest
from katuna.manifest.job import Mount, Volume
from katuna.manifest.references import Holder, entries, find

HOST_PATH_TYPES = ("DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice")
DEFAULT_MODE = 0o644
"""The mode of files from ConfigMaps and Secrets."""

_SCRATCH = ("emptyDir", "ephemeral")
_NAMED = {"hostPath": "path", "persistentVolumeClaim": "claimName", "configMap": "name", "secret": "secretName"}
"""By kind of volume, the field that names its source."""
_MAP = "--map /IN/IMAGE=./HERE gives a path a folder"


@dataclass(frozen=True)
class HostPath(Volume):
    """`type` is one of `HOST_PATH_TYPES`: the path must be of that type, or is created. "" takes any path."""

    type: str = ""


@dataclass(frozen=True)
class HeldFiles(Volume):
    """Files from a ConfigMap or a Secret; `modes` has the mode of each file."""

    modes: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))


def read_volumes(
    pod: Mapping[str, Any], references: Sequence[Manifest], namespace: str
) -> tuple[tuple[Volume, ...], list[Remark]]:
    """The volumes that a job on this machine can use, and remarks on all volumes; their paths begin at the pod's spec. A volume of another
    kind gets a note: only `--map` can give its mounts a folder."""
    volumes: list[Volume] = []
    remarks: list[Remark] = []
    for index, volume in enumerate(pod.get("volumes") or []):
        read = _read(volume, ("volumes", index), references, namespace)
        if isinstance(read, Remark):
            remarks.append(read)
        else:
            volumes.append(read)
            if read.missing:
                what = "ConfigMap" if read.kind == "configMap" else "Secret"
                message = f"the {what} {read.source} in namespace {namespace} is not among the files given"
                hint = f"give its file beside this one; {_MAP}"
                remarks.append(Remark(("volumes", index, read.kind), message, hint, "note", LOCAL, code="volumes-not-mounted"))
    return tuple(volumes), remarks


def read_mounts(container: Mapping[str, Any]) -> tuple[Mount, ...]:
    """The mounts as written. `sub_path` is not expanded yet; a plain `subPath` is escaped, so that expansion leaves it as it is."""
    return tuple(
        Mount(
            volume=str(mount.get("name", "")),
            path=str(mount["mountPath"]),
            sub_path=str(mount.get("subPathExpr") or str(mount.get("subPath") or "").replace("$", "$$")),
        )
        for mount in container.get("volumeMounts") or []
    )


def _read(volume: Mapping[str, Any], path: Path, references: Sequence[Manifest], namespace: str) -> Volume | Remark:
    name = str(volume.get("name", ""))
    given = [each for each in volume if each != "name"]
    if len(given) > 1:
        message = f"the volume {shown(name)} is of several kinds: {listed(given)}"
        return Remark(path, message, "keep one of them", code="one-source")
    kind = given[0] if given else "emptyDir"
    if kind in _SCRATCH:
        return Volume(name, "emptyDir")
    path = (*path, kind)
    if kind not in _NAMED:
        message = f"a volume of kind {kind} means nothing here"
        return Remark(path, message, _MAP, "note", LOCAL, at_key=True, code="volumes-not-mounted")
    source = volume.get(kind) or {}
    target = str(source.get(_NAMED[kind]) or "")
    if not target:
        hint = f"the volume {shown(name)} has nothing to mount"
        return Remark((*path, _NAMED[kind]), "must be specified", hint, code="missing-field")
    if kind in ("configMap", "secret"):
        return _files(
            HeldFiles(name, "configMap" if kind == "configMap" else "secret", target), source, path, references, namespace
        )
    return _host_path(name, target, source, path) if kind == "hostPath" else Volume(name, "persistentVolumeClaim", target)


def _host_path(name: str, place: str, source: Mapping[str, Any], path: Path) -> Volume | Remark:
    kind = str(source.get("type") or "")
    if kind and kind not in HOST_PATH_TYPES:
        return one_of((*path, "type"), kind, HOST_PATH_TYPES)
    if ".." in PurePosixPath(place).parts:
        return Remark((*path, "path"), f"{shown(place)} leads back by '..'", "write where it leads", code="bad-path")
    return HostPath(name, "hostPath", place, type=kind)


def _files(
    volume: HeldFiles, source: Mapping[str, Any], path: Path, references: Sequence[Manifest], namespace: str
) -> Volume | Remark:
    """The volume with the files of its ConfigMap or Secret."""
    kind: Holder = "ConfigMap" if volume.kind == "configMap" else "Secret"
    found = find(references, kind, volume.source, namespace)
    held = entries(found) if found else {}
    usual = DEFAULT_MODE if source.get("defaultMode") is None else source["defaultMode"]
    items: Sequence[Mapping[str, Any]] = (
        [{"key": key, "path": key} for key in held] if source.get("items") is None else source["items"]
    )
    modes: list[Any] = [usual if each.get("mode") is None else each["mode"] for each in items]
    places = [(*path, "defaultMode"), *((*path, "items", index, "mode") for index in range(len(items)))]
    for where, mode in zip(places, [usual, *modes], strict=True):
        if not isinstance(mode, int) or not 0 <= mode <= 0o777:
            hint = "an octal number begins with 0 in YAML: 0644"
            return Remark(where, f"{shown(mode)} is no mode between 0 and 0777", hint, code="out-of-range")
    optional = bool(source.get("optional"))
    if found is None:
        return replace(volume, missing=not optional)
    chosen = [(str(each.get("key", "")), str(each.get("path", "")), mode) for each, mode in zip(items, modes, strict=True)]
    lacking = [key for key, _, _ in chosen if key not in held]
    if lacking and not optional:
        message, hint = f"the {kind} {volume.source} has no key {shown(lacking[0])}", f"it has: {listed(sorted(held))}"
        return Remark((*path, "items"), message, hint, on=LOCAL, code="no-config-map-key")
    outside = next((to for _, to, _ in chosen if not _is_below(to)), None)
    if outside is not None:
        return Remark((*path, "items"), f"{shown(outside)} is no path below the mount", "no '..', no '/' first", code="bad-path")
    made = [(key, posixpath.normpath(to), mode) for key, to, mode in chosen if key in held]
    return replace(volume, files={to: held[key] for key, to, _ in made}, modes={to: mode for _, to, mode in made})


def _is_below(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith(("/", "..")) and ".." not in parts and "\0" not in path
