"""The code of a run on a cluster: ConfigMaps that hold it, and an init container of each pod that unpacks it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from katuna.cluster.objects import RUN_LABEL, templates
from katuna.errors import InputRefused
from katuna.manifest.experiment import Manifest

PART_BYTES = 900 * 1024
"""What a ConfigMap takes: 1 MiB with all that is around it."""
MOST_PARTS = 5
FOLDER, PACKED = "/katuna/code", "/katuna/packed"
VOLUME, PACKED_VOLUME, UNPACKS = "katuna-code", "katuna-packed", "katuna-code"
_ENTRY = "code.tar.gz"

UNPACK = (
    "import hashlib, io, os, sys, tarfile\n"
    "parts, digest, target = sys.argv[1:4]\n"
    "names = sorted(n for n in os.listdir(parts) if not n.startswith('.'))\n"
    "data = b''.join(open(os.path.join(parts, n), 'rb').read() for n in names)\n"
    "found = hashlib.sha256(data).hexdigest()\n"
    "if found != digest:\n"
    "    sys.exit('the code in the ConfigMap is not what was sent: its digest is ' + found)\n"
    "with tarfile.open(fileobj=io.BytesIO(data)) as tar:\n"
    "    for each in tar:\n"
    "        path = os.path.join(target, each.name)\n"
    "        os.makedirs(os.path.dirname(path), exist_ok=True)\n"
    "        with open(path, 'wb') as file:\n"
    "            file.write(tar.extractfile(each).read())\n"
    "        os.chmod(path, each.mode)\n"
)
"""Python 3.6 and its standard library: it runs in the trial's own image."""


@dataclass(frozen=True)
class PackedFile:
    """A file of the code: `path` below its root, slashes between."""

    root: int
    path: str
    mode: int
    content: bytes


@dataclass(frozen=True)
class Packed:
    """The code as it is sent. `digest` is of the archive's bytes, which are the same for the same files."""

    data: bytes
    digest: str

    @property
    def parts(self) -> list[bytes]:
        return [self.data[begin : begin + PART_BYTES] for begin in range(0, len(self.data), PART_BYTES)]

    def names(self, run: str) -> list[str]:
        """Those of the ConfigMaps of a run, which is told by its label."""
        own = hashlib.sha256(f"{run} {self.digest}".encode()).hexdigest()
        return [f"katuna-code-{own[:20]}-{number}" for number in range(len(self.parts))]


def pack(files: Iterable[PackedFile]) -> Packed:
    """Raises InputRefused for more than ConfigMaps should carry, with the largest files."""
    listed = sorted(files, key=lambda each: (each.root, each.path))
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for each in listed:
            entry = tarfile.TarInfo(f"{each.root}/{each.path}")
            entry.size, entry.mode = len(each.content), each.mode
            tar.addfile(entry, io.BytesIO(each.content))
    data = gzip.compress(plain.getvalue(), 9, mtime=0)
    packed = Packed(data, hashlib.sha256(data).hexdigest())
    if len(packed.parts) > MOST_PARTS:
        largest = sorted(listed, key=lambda each: -len(each.content))[:3]
        named = ", ".join(f"{each.path} ({len(each.content) / 2**20:.1f} MiB)" for each in largest)
        raise InputRefused(
            f"the code takes {len(data) / 2**20:.1f} MiB packed, and ConfigMaps carry {MOST_PARTS * PART_BYTES / 2**20:.1f} MiB at most. "
            f"The largest files are {named}: name them in .gitignore and put them on a claim, or build an image with the code and give "
            "--code none"
        )
    return packed


def config_maps(packed: Packed, namespace: str, run: str) -> list[Manifest]:
    """Immutable, and named by the run and by what they hold: what is there already under such a name is the same."""
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": namespace, "labels": {RUN_LABEL: run}},
            "immutable": True,
            "binaryData": {f"{number:03d}-{_ENTRY}": base64.b64encode(part).decode()},
        }
        for number, (name, part) in enumerate(zip(packed.names(run), packed.parts, strict=True))
    ]


def with_code(manifest: Manifest, packed: Packed, mounts: Mapping[str, str], run: str) -> Manifest:
    """The job whose containers find the code. `run` is the label of its run. `mounts` maps paths of the image to paths below FOLDER; a container without workingDir
    begins in the first root. Raises InputRefused for a TrainJob, whose pods belong to its runtime."""
    if manifest.get("kind") == "TrainJob":
        raise InputRefused(
            "spec.runtimeRef: the pods of a TrainJob belong to its runtime, so the code of this folder cannot be put into them: build an "
            "image with the code and give --code none"
        )
    made: dict[str, Any] = json.loads(json.dumps(manifest))
    for path in templates(made):
        template: Any = made
        for key in path:
            template = template[key]
        _put_into(template["spec"], packed, mounts, packed.names(run))
    return made


def _put_into(pod: dict[str, Any], packed: Packed, mounts: Mapping[str, str], names: Sequence[str]) -> None:
    containers: Sequence[dict[str, Any]] = pod["containers"]
    for container in containers:
        own = container.get("workingDir")
        container.setdefault("workingDir", f"{FOLDER}/0")
        targets = {FOLDER: "", **({own: "0"} if own else {}), **mounts}
        container["volumeMounts"] = [
            *(container.get("volumeMounts") or []),
            *({"name": VOLUME, "mountPath": place, **({"subPath": sub} if sub else {})} for place, sub in targets.items()),
        ]
    sources = [{"configMap": {"name": name}} for name in names]
    pod["volumes"] = [
        *(pod.get("volumes") or []),
        {"name": VOLUME, "emptyDir": {}},
        {"name": PACKED_VOLUME, "projected": {"sources": sources}},
    ]
    pod["initContainers"] = [_unpacking(containers[0], packed), *(pod.get("initContainers") or [])]


def _unpacking(trains: Mapping[str, Any], packed: Packed) -> dict[str, Any]:
    """The init container. It has the image and the security context of the container that trains, without privileges that
    unpacking does not need."""
    hardened = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return {
        "name": UNPACKS,
        "image": trains.get("image"),
        **({"imagePullPolicy": trains["imagePullPolicy"]} if "imagePullPolicy" in trains else {}),
        "command": ["python", "-c", UNPACK, PACKED, packed.digest, FOLDER],
        "securityContext": {**hardened, **(trains.get("securityContext") or {})},
        **({"resources": trains["resources"]} if "resources" in trains else {}),
        "volumeMounts": [
            {"name": VOLUME, "mountPath": FOLDER},
            {"name": PACKED_VOLUME, "mountPath": PACKED, "readOnly": True},
        ],
    }
