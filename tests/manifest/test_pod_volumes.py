"""What a pod's volumes come to: files and their modes, types of host paths, and what an API server refuses of them."""

from __future__ import annotations

from typing import Any

import pytest

from katuna.manifest.diagnostic import path_text
from katuna.manifest.volumes import HeldFiles, HostPath, read_volumes
from katuna.manifest.yamltext import scalar

CODE = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "code"}, "data": {"a.py": "A", "b.py": "B"}}
KEYS = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"token": "T"}}


def read(**source: Any) -> HeldFiles:
    (volume,), remarks = read_volumes({"volumes": [{"name": "v", **source}]}, [CODE, KEYS], "default")
    assert remarks == []
    assert isinstance(volume, HeldFiles)
    return volume


def refusal(**source: Any) -> tuple[str, str, str, str]:
    volumes, (remark,) = read_volumes({"volumes": [{"name": "v", **source}]}, [CODE, KEYS], "default")
    assert (volumes, remark.level) == ((), "error")
    return path_text(remark.path), remark.message, remark.hint, remark.code


def test_files_have_the_volumes_mode() -> None:
    assert read(configMap={"name": "code"}).modes == {"a.py": 0o644, "b.py": 0o644}
    assert read(configMap={"name": "code", "defaultMode": None}).modes == {"a.py": 0o644, "b.py": 0o644}
    assert read(secret={"secretName": "keys", "defaultMode": 0o400}).modes == {"token": 0o400}
    assert read(secret={"secretName": "keys", "defaultMode": 0}).modes == {"token": 0}


def test_the_mode_of_an_item_goes_before_the_volumes() -> None:
    items = [
        {"key": "a.py", "path": "x/./a"},
        {"key": "a.py", "path": "twice", "mode": 0},
        {"key": "b.py", "path": "b", "mode": 0o700},
    ]
    volume = read(configMap={"name": "code", "defaultMode": 0o755, "items": items})
    assert volume.modes == {"x/a": 0o755, "twice": 0, "b": 0o700}
    assert volume.files == {"x/a": b"A", "twice": b"A", "b": b"B"}


def test_a_key_that_may_be_missing_makes_no_file() -> None:
    volume = read(configMap={"name": "code", "optional": True, "items": [{"key": "c", "path": "c", "mode": 0o600}]})
    assert (volume.files, volume.modes) == ({}, {})


@pytest.mark.parametrize("text", ["0755", "0o755", "493"])
def test_a_mode_is_octal_as_kubectl_reads_it(text: str) -> None:
    assert read(configMap={"name": "code", "defaultMode": scalar(text)}).modes["a.py"] == 0o755


@pytest.mark.parametrize("mode", [755, -1, 0o1000, "0755"])
def test_a_mode_that_is_none_is_refused(mode: object) -> None:
    hint = "an octal number begins with 0 in YAML: 0644"
    expected = (f"{mode!r} is no mode between 0 and 0777", hint, "out-of-range")
    assert refusal(configMap={"name": "code", "defaultMode": mode}) == ("volumes[0].configMap.defaultMode", *expected)
    items = [{"key": "a.py", "path": "a"}, {"key": "b.py", "path": "b", "mode": mode}]
    assert refusal(configMap={"name": "code", "items": items}) == ("volumes[0].configMap.items[1].mode", *expected)


def test_a_host_path_has_a_type() -> None:
    pod = {"volumes": [{"name": "v", "hostPath": {"path": "/d", **more}} for more in ({}, {"type": ""}, {"type": "File"})]}
    volumes, remarks = read_volumes(pod, [], "default")
    assert remarks == []
    assert [volume.type for volume in volumes if isinstance(volume, HostPath)] == ["", "", "File"]


def test_a_type_that_no_host_path_has_is_refused() -> None:
    path, message, hint, code = refusal(hostPath={"path": "/d", "type": "directory"})
    assert (path, code) == ("volumes[0].hostPath.type", "unknown-value")
    assert (message, hint) == ("'directory' is not known", "did you mean Directory?")
