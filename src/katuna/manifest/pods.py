"""From a pod template to one replica of the neutral job: its containers, their environment, resources and volumes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from katuna.errors import RenderRefused
from katuna.manifest.diagnostic import shown
from katuna.manifest.env import Facts, container_env
from katuna.manifest.experiment import Manifest
from katuna.manifest.hidden import Text
from katuna.manifest.job import (
    DEFAULT_GRACE_S,
    GPU,
    Container,
    Mount,
    Pairs,
    Replica,
    RestartPolicy,
    expand_text,
    expand_variables,
    unknown_references,
)
from katuna.manifest.quantity import quantity
from katuna.manifest.volumes import read_mounts, read_volumes

Template = Mapping[str, Any]
"""A PodTemplateSpec."""


@dataclass(frozen=True)
class Pods:
    """Makes the replicas of one job. `primary` names the container that trains; "" is the first container. `references`, `trial` and
    `pass_env` are as in `job_from_manifest`."""

    job: str
    namespace: str
    primary: str
    references: tuple[Manifest, ...]
    trial: str
    pass_env: Collection[str] | None

    def replica(
        self,
        role: str,
        index: int,
        template: Template,
        injected: Pairs,
        labels: Mapping[str, str],
        restart_policy: RestartPolicy,
        pod_name: str = "",
    ) -> Replica:
        """One pod of the job. Raises RenderRefused, and KeyError where the pod has no container of the primary's name."""
        pod, metadata = template["spec"], template.get("metadata") or {}
        pod_name = pod_name or f"{self.job}-{role}-{index}"
        labels = {**(metadata.get("labels") or {}), **labels}
        facts = Facts(pod_name, self.namespace, labels, metadata.get("annotations") or {}, pod)
        volumes, remarks = read_volumes(pod, self.references, self.namespace)
        refused = [remark.message for remark in remarks if remark.level == "error"]
        if refused:
            raise RenderRefused("; ".join(refused))
        containers = {each.get("name"): each for each in pod["containers"]}
        trains = containers[self.primary or pod["containers"][0]["name"]]
        if self.trial:
            injected = (*injected, ("KATIB_TRIAL_NAME", self.trial))
        known = dict(injected)
        return Replica(
            role=role,
            index=index,
            pod_name=pod_name,
            container=self._container(trains, facts, known),
            injected=injected,
            sidecars=tuple(self._container(each, facts, known) for each in containers.values() if each is not trains),
            init_containers=tuple(self._container(each, facts, {}) for each in init_containers(pod)),
            volumes=volumes,
            restart_policy=restart_policy,
        )

    def _container(self, container: Mapping[str, Any], facts: Facts, injected: Mapping[str, str]) -> Container:
        env = container_env(container, facts, self.references, self.pass_env)
        if env.remarks:
            raise RenderRefused("; ".join(remark.message for remark in env.remarks))
        resources = container.get("resources") or {}
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        cpu, memory = limits.get("cpu", requests.get("cpu")), limits.get("memory")
        variables = {**expand_variables(env.pairs), **injected}
        return Container(
            name=container["name"],
            image=container.get("image", ""),
            command=tuple(container.get("command") or ()),
            args=tuple(container.get("args") or ()),
            env=env.pairs,
            secrets=env.secrets,
            working_dir=container.get("workingDir") or "",
            cpu=None if cpu is None else float(quantity(cpu)),
            gpus=int(quantity(limits.get(GPU, requests.get(GPU, 0)))),
            memory_bytes=None if memory is None else int(quantity(memory)),
            mounts=tuple(_with_sub_path(each, variables, env.secrets) for each in read_mounts(container)),
        )


def _with_sub_path(mount: Mount, variables: Mapping[str, Text], secrets: Collection[str]) -> Mount:
    """The mount with its subPathExpr expanded. Raises RenderRefused, as a kubelet does, where it refers to an unknown variable."""
    unknown = unknown_references(str(mount.sub_path), {*variables, *secrets})
    if unknown:
        message = (
            f"volumeMount {mount.path}: subPathExpr {shown(mount.sub_path)} refers to {unknown[0]}, which the container has not"
        )
        raise RenderRefused(f"{message} (name it in env)")
    return replace(mount, sub_path=expand_text(mount.sub_path, variables))


def init_containers(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The init containers that end before the others begin. An init container with restartPolicy Always is a sidecar, which katuna
    does not run."""
    return [each for each in pod.get("initContainers") or [] if each.get("restartPolicy") != "Always"]


def grace_s(template: Template) -> float:
    grace = template["spec"].get("terminationGracePeriodSeconds")
    return DEFAULT_GRACE_S if grace is None else float(grace)


def smallest(*seconds: int | None) -> float | None:
    given = [float(each) for each in seconds if each is not None]
    return min(given) if given else None
