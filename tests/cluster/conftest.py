"""A control plane for each worker of the test run, and a namespace for each test."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from build import built, why_not
from plane import Plane

from searches import katuna

ROLE = yaml.safe_load((Path(__file__).parents[2] / "deploy/role.yaml").read_text())


@pytest.fixture(scope="session")
def plane() -> Iterator[Plane]:
    why = why_not() or (
        "" if built() else "the control plane is not built: python tests/cluster/build.py does it, once, in minutes"
    )
    if why and os.environ.get("CI") == "true":
        pytest.fail(why)
    if why:
        pytest.skip(why)
    # Not below /tmp, where pods have a folder of their own.
    with (
        tempfile.TemporaryDirectory(prefix="katuna-testbed-", dir="/var/tmp", ignore_cleanup_errors=True) as folder,
        Plane(Path(folder), gpus=2) as made,
    ):
        yield made.start()


@dataclass
class Lab:
    """A namespace in which the user may do what deploy/role.yaml says, and a folder with what he runs."""

    plane: Plane
    namespace: str
    folder: Path

    @property
    def env(self) -> dict[str, str]:
        return {"KUBECONFIG": str(self.plane.kubeconfig), "KATUNA_HOME": str(self.folder / "runs")}

    @property
    def there(self) -> tuple[str, ...]:
        return ("--on", "cluster", "--context", "user", "--namespace", self.namespace)

    def katuna(self, *arguments: object, timeout: float = 110):  # type: ignore[no-untyped-def]
        return katuna(*arguments, cwd=self.folder, env=self.env, timeout=timeout)

    def objects(self) -> list[str]:
        """What katuna has made and is there still."""
        paths = ("/apis/batch/v1", "/apis/kubeflow.org/v1", "/api/v1", "/api/v1")
        kinds = ("jobs", "pytorchjobs", "pods", "configmaps")
        found = []
        for path, kind in zip(paths, kinds, strict=True):
            items = self.plane.kube.get(f"{path}/namespaces/{self.namespace}/{kind}")["items"]
            found += [each["metadata"]["name"] for each in items if each["metadata"]["name"] != "kube-root-ca.crt"]
        return found


@pytest.fixture
def lab(plane: Plane, tmp_path: Path, request: pytest.FixtureRequest) -> Lab:
    name = re.sub(r"[^a-z0-9]+", "-", f"{request.node.name}-{os.getpid()}".lower())[-50:].strip("-")
    plane.grant(plane.namespace(name), ROLE)
    (tmp_path / "work").mkdir()
    return Lab(plane, name, tmp_path / "work")
