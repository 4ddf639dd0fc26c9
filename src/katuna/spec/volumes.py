"""What the volumes of a pod are here: scratch folders, folders of this machine, claims, files from ConfigMaps and Secrets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from katuna.errors import LOCAL
from katuna.spec.beside import Holder, entries, find
from katuna.spec.job import Mount, Volume
from katuna.spec.model import Manifest
from katuna.spec.remark import Path, Remark, listed, shown

_SCRATCH = ("emptyDir", "ephemeral")
_MAP = "--map /IN/IMAGE=./HERE gives a path a folder"


def read_volumes(pod: Mapping[str, Any], beside: Sequence[Manifest], namespace: str) -> tuple[tuple[Volume, ...], list[Remark]]:
    """The volumes that have a meaning here, and remarks on all; paths are the pod's own. A volume of another kind is a note: its
    mounts are paths that only `--map` can give a folder."""
    volumes: list[Volume] = []
    remarks: list[Remark] = []
    for index, volume in enumerate(pod.get("volumes") or []):
        read = _read(volume, ("volumes", index), beside, namespace)
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
    """The mounts as written; `subPathExpr` is still to be expanded."""
    return tuple(
        Mount(
            volume=str(mount.get("name", "")),
            path=str(mount["mountPath"]),
            sub_path=str(mount.get("subPathExpr") or mount.get("subPath") or ""),
            read_only=bool(mount.get("readOnly")),
        )
        for mount in container.get("volumeMounts") or []
    )


def _read(volume: Mapping[str, Any], path: Path, beside: Sequence[Manifest], namespace: str) -> Volume | Remark:
    name = str(volume.get("name", ""))
    kind = next((each for each in volume if each != "name"), "emptyDir")
    source = volume.get(kind) or {}
    if kind in _SCRATCH:
        return Volume(name, "emptyDir")
    if kind == "hostPath":
        return Volume(name, "hostPath", str(source.get("path", "")))
    if kind == "persistentVolumeClaim":
        return Volume(name, "persistentVolumeClaim", str(source.get("claimName", "")))
    if kind == "configMap":
        return _files(Volume(name, "configMap", str(source.get("name", ""))), source, (*path, kind), beside, namespace)
    if kind == "secret":
        return _files(Volume(name, "secret", str(source.get("secretName", ""))), source, (*path, kind), beside, namespace)
    message = f"a volume of kind {kind} means nothing here"
    return Remark((*path, kind), message, _MAP, "note", LOCAL, at_key=True, code="volumes-not-mounted")


def _files(volume: Volume, source: Mapping[str, Any], path: Path, beside: Sequence[Manifest], namespace: str) -> Volume | Remark:
    """The volume with the files that its ConfigMap or Secret makes."""
    kind: Holder = "ConfigMap" if volume.kind == "configMap" else "Secret"
    found = find(beside, kind, volume.source, namespace)
    optional = bool(source.get("optional"))
    if found is None:
        return Volume(volume.name, volume.kind, volume.source, missing=not optional)
    held = entries(found)
    chosen = {key: key for key in held}
    if source.get("items") is not None:
        chosen = {str(item.get("key", "")): str(item.get("path", "")) for item in source["items"]}
    lacking = [key for key in chosen if key not in held]
    if lacking and not optional:
        message, hint = f"the {kind} {volume.source} has no key {shown(lacking[0])}", f"it has: {listed(sorted(held))}"
        return Remark((*path, "items"), message, hint, on=LOCAL, code="no-config-map-key")
    outside = next((to for to in chosen.values() if not _is_below(to)), None)
    if outside is not None:
        return Remark((*path, "items"), f"{shown(outside)} is no path below the mount", "no '..', no '/' first", code="bad-path")
    return Volume(volume.name, volume.kind, volume.source, {to: held[key] for key, to in chosen.items() if key in held})


def _is_below(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith(("/", "..")) and ".." not in parts and "\0" not in path
