"""What a test on the control plane has: a namespace, the rights of deploy/role.yaml in it, and a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml
from plane import Plane

from searches import katuna

ROLE = yaml.safe_load((Path(__file__).parents[2] / "deploy/role.yaml").read_text())


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
