"""The operator's reading of an elasticPolicy: how many replicas there may be, and the rendezvous that torchrun is told of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def elastic_range(spec: Mapping[str, Any]) -> tuple[int, int] | None:
    """(least, most) replicas of a PyTorchJob's spec, None without an elasticPolicy. One number that is missing is the other; both,
    the Workers'."""
    policy = spec.get("elasticPolicy")
    if policy is None:
        return None
    workers = ((spec.get("pytorchReplicaSpecs") or {}).get("Worker") or {}).get("replicas", 1)
    low, high = policy.get("minReplicas"), policy.get("maxReplicas")
    low, high = (
        (workers if high is None else high) if low is None else low,
        (workers if low is None else low) if high is None else high,
    )
    return int(low), int(high)


def elastic_variables(spec: Mapping[str, Any], job: str, port: int) -> Iterator[tuple[str, str]]:
    """What the operator adds for an elasticPolicy; `port` is the Workers' own."""
    policy, (low, high) = spec["elasticPolicy"], elastic_range(spec) or (1, 1)
    host = policy.get("rdzvHost", f"{job}-worker-0")
    yield "PET_RDZV_ENDPOINT", f"{host}:{policy.get('rdzvPort', port)}"
    yield "PET_RDZV_BACKEND", policy.get("rdzvBackend", "c10d")
    yield "PET_NNODES", f"{low}:{high}"
    for field, name in (("maxRestarts", "PET_MAX_RESTARTS"), ("nProcPerNode", "PET_NPROC_PER_NODE"), ("rdzvId", "PET_RDZV_ID")):
        if policy.get(field) is not None:
            yield name, str(policy[field])
    if policy.get("rdzvConf"):
        yield "PET_RDZV_CONF", ",".join(f"{each.get('key', '')}={each.get('value', '')}" for each in policy["rdzvConf"])
    if policy.get("standalone"):
        yield "PET_STANDALONE", ""
