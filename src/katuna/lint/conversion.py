"""What a batch Job loses when Katib decodes it into its Go type and compares: its admission refuses every difference (katib.md 5.2).

Go leaves out empty fields when it writes an object, unless they are required or pointers, and writes quantities in one way of its
own. Katib does not compare what is below resources.limits and resources.requests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from katuna.errors import KATIB
from katuna.manifest.diagnostic import Path, Remark, shown
from katuna.manifest.fields import Typed, type_of, typed_values

_JOB = "batch/v1 Job"
_UNCOMPARED = frozenset(("limits", "requests"))

_POINTERS = frozenset(
    (
        *("containers.restartPolicy", "initContainers.restartPolicy", "ephemeralContainers.restartPolicy", "stopSignal"),
        *("preemptionPolicy", "runtimeClassName", "hostnameOverride", "resourceClaimName", "resourceClaimTemplateName"),
        *("procMount", "localhostProfile", "gmsaCredentialSpec", "gmsaCredentialSpecName", "runAsUserName", "podGroupName"),
        *("fsGroupChangePolicy", "supplementalGroupsPolicy", "seLinuxChangePolicy", "mountPropagation", "recursiveReadOnly"),
        *("nodeAffinityPolicy", "nodeTaintsPolicy", "options.value", "grpc.service", "hostPath.type", "initiatorName"),
        *("csi.fsType", "csi.readOnly", "azureDisk.cachingMode", "azureDisk.fsType", "azureDisk.kind", "azureDisk.readOnly"),
        *("storageClassName", "volumeMode", "volumeAttributesClassName", "dataSource.apiGroup", "dataSourceRef.apiGroup"),
        *("dataSourceRef.namespace", "clusterTrustBundle.name", "clusterTrustBundle.signerName", "completionMode", "managedBy"),
        *("podReplacementPolicy", "onExitCodes.containerName", "succeededIndexes", "portworxVolume.fsType", "projected.sources"),
    )
)
"""Texts and flags, by name or by parent and name, that Go keeps when they are empty: pointers, and fields without omitempty."""
_PLAIN_FLAGS = frozenset(
    (
        *("hostNetwork", "hostPID", "hostIPC", "stdin", "stdinOnce", "tty", "readOnly"),
        *("sslEnabled", "chapAuthDiscovery", "chapAuthSession"),
    )
)
_PLAIN_NUMBERS = frozenset(
    (
        *("hostPort", "initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"),
        *("partition", "generation"),
    )
)
"""Flags and numbers of the Job's types that are no pointers: false and 0 are left out."""

_BINARY = re.compile(r"([1-9][0-9]*)[KMGTPE]i\Z")
_DECIMAL = re.compile(r"([1-9][0-9]*)(n|u|m|k|M|G|T|P|E|e(-?[1-9][0-9]?))?\Z")


def check_conversion(job: Any) -> Iterator[Remark]:
    """`job` is the template with placeholders filled in; paths are from its top."""
    for each in typed_values(job, type_of(_JOB)):
        if not _UNCOMPARED.isdisjoint(each.path[:-1]):
            continue
        if _is_left_out(each):
            message = f"Katib refuses a Job in which a field is written and empty, as this one is: {shown(each.value)}"
            yield Remark(each.path, message, "leave the field out", on=KATIB, at_key=True, code="lost-in-conversion")
        elif each.type == "quantity" and isinstance(each.value, (str, int)) and not _is_canonical(each.value):
            message = f"Katib refuses a quantity that Kubernetes writes in another way than {shown(each.value)}"
            yield Remark(each.path, message, "in quotes, with the largest unit that fits", on=KATIB, code="lost-in-conversion")


def _is_left_out(field: Typed) -> bool:
    """Null is never what Go writes, but for one time stamp."""
    name, value = field.path[-1] if field.path else "", field.value
    if value is None:
        return name != "creationTimestamp"
    if field.required or name in _UNCOMPARED or not _POINTERS.isdisjoint((name, _with_parent(field.path))):
        return False
    if isinstance(value, bool):
        return value is False and name in _PLAIN_FLAGS
    if isinstance(value, (int, float)):
        return value == 0 and name in _PLAIN_NUMBERS
    is_map = isinstance(field.type, dict) and "*" in field.type
    return value in ("", []) or (value == {} and is_map)


def _with_parent(path: Path) -> str:
    """`parent.name`, where an index is no parent."""
    return ".".join([part for part in path if isinstance(part, str)][-2:])


def _is_canonical(value: object) -> bool:
    """Whether Kubernetes writes the quantity as it stands here; 0 is left to the other rules."""
    text = value if isinstance(value, str) else ""
    binary, decimal = _BINARY.match(text), _DECIMAL.match(text)
    if binary:
        return int(binary[1]) % 1024 != 0
    if decimal and decimal[3] and int(decimal[3]) % 3:
        return False
    return text == "0" or (decimal is not None and int(decimal[1]) % 1000 != 0)
