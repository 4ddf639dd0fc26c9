"""The code as it is sent: the init step runs here as it would in a pod."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from katuna.cluster.code import PART_BYTES, UNPACK, PackedFile, config_maps, pack, with_code
from katuna.errors import InputRefused

FILES = [
    PackedFile(0, "train.py", 0o644, b"print('accuracy=1')\n"),
    PackedFile(0, "lab/run.sh", 0o755, b"#!/bin/sh\n"),
    PackedFile(1, "ñ.txt", 0o644, "ñ".encode()),
]


def unpack(folder: Path, parts: list[bytes], digest: str) -> subprocess.CompletedProcess[str]:
    (folder / "parts").mkdir()
    for number, part in enumerate(parts):
        (folder / "parts" / f"{number:03d}-code.tar.gz").write_bytes(part)
    # What a projected volume has beside its files.
    (folder / "parts" / "..data").mkdir()
    command = [sys.executable, "-c", UNPACK, str(folder / "parts"), digest, str(folder / "code")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_is_packed_is_what_is_unpacked(tmp_path: Path) -> None:
    packed = pack(FILES)
    assert unpack(tmp_path, packed.parts, packed.digest).returncode == 0
    found = {
        str(path.relative_to(tmp_path / "code")): (path.read_bytes(), path.stat().st_mode & 0o777)
        for path in (tmp_path / "code").rglob("*")
        if path.is_file()
    }
    assert found == {f"{each.root}/{each.path}": (each.content, each.mode) for each in FILES}


def test_the_same_files_are_the_same_bytes_in_any_order() -> None:
    assert pack(FILES).data == pack(reversed(FILES)).data


def test_an_altered_byte_is_refused(tmp_path: Path) -> None:
    packed = pack(FILES)
    wrong = bytearray(packed.data)
    wrong[-1] ^= 1
    done = unpack(tmp_path, [bytes(wrong)], packed.digest)
    assert done.returncode == 1
    assert "the code in the ConfigMap is not what was sent" in done.stderr
    assert not (tmp_path / "code").exists()


def test_more_than_one_config_map_takes_goes_into_several(tmp_path: Path) -> None:
    packed = pack([*FILES, PackedFile(0, "table.bin", 0o644, os.urandom(2 * PART_BYTES))])
    maps = config_maps(packed, "lab", "run-1")
    assert len(maps) == 3
    assert all(each["immutable"] and each["metadata"]["labels"] == {"katuna/run": "run-1"} for each in maps)
    parts = [base64.b64decode(part) for each in maps for part in each["binaryData"].values()]
    assert unpack(tmp_path, parts, packed.digest).returncode == 0
    assert (tmp_path / "code/0/train.py").read_bytes() == FILES[0].content


def test_too_much_is_refused_with_the_largest_files() -> None:
    with pytest.raises(InputRefused, match=r"largest files are big\.bin \(5\.0 MiB\), .*--code none"):
        pack([*FILES, PackedFile(0, "big.bin", 0o644, os.urandom(5 << 20))])


def job(kind: str = "Job", **container: Any) -> dict[str, Any]:
    pod = {"containers": [{"name": "main", "image": "lab/image", "command": ["python", "train.py"], **container}]}
    spec = {"template": {"spec": pod}}
    if kind == "PyTorchJob":
        spec = {"pytorchReplicaSpecs": {"Master": {"template": {"spec": pod}}, "Worker": {"template": {"spec": pod}}}}
    return {"kind": kind, "metadata": {"name": "j"}, "spec": spec}


def test_a_container_begins_in_the_code_and_the_file_stays_as_it_was() -> None:
    given, packed = job(), pack(FILES)
    made = with_code(given, packed, {"/opt/lab": "0/lab"}, "run-1")
    pod = made["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["workingDir"] == "/katuna/code/0"
    assert [(each["mountPath"], each.get("subPath")) for each in container["volumeMounts"]] == [
        ("/katuna/code", None),
        ("/opt/lab", "0/lab"),
    ]
    assert [each["name"] for each in pod["initContainers"]] == ["katuna-code"]
    assert given == job()


def test_a_working_folder_of_the_file_holds_the_code() -> None:
    made = with_code(job(workingDir="/app"), pack(FILES), {}, "run-1")
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert container["workingDir"] == "/app"
    assert {"name": "katuna-code", "mountPath": "/app", "subPath": "0"} in container["volumeMounts"]


def test_every_replica_gets_it() -> None:
    made = with_code(job("PyTorchJob"), pack(FILES), {}, "run-1")
    assert all("initContainers" in each["template"]["spec"] for each in made["spec"]["pytorchReplicaSpecs"].values())


def test_the_init_step_has_the_rights_of_the_container_that_trains() -> None:
    own = {"runAsNonRoot": True, "runAsUser": 1000}
    made = with_code(job(securityContext=own, imagePullPolicy="Always"), pack(FILES), {}, "run-1")
    (init,) = made["spec"]["template"]["spec"]["initContainers"]
    assert init["securityContext"].items() >= {**own, "allowPrivilegeEscalation": False}.items()
    assert (init["image"], init["imagePullPolicy"]) == ("lab/image", "Always")


def test_a_train_job_is_refused() -> None:
    with pytest.raises(InputRefused, match=r"spec\.runtimeRef.*--code none"):
        with_code({"kind": "TrainJob"}, pack(FILES), {}, "run-1")
