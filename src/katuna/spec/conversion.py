"""What a batch Job loses when Katib decodes it into its Go type and compares: its admission refuses every difference (katib.md 5.2).

Go leaves out empty fields when it writes an object, and writes quantities in one way of its own. Katib does not compare what is
below resources.limits and resources.requests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from katuna.errors import KATIB
from katuna.spec.remark import Path, Remark, shown

_TEXTS = frozenset(
    ("value", "image", "workingDir", "imagePullPolicy", "terminationMessagePath", "terminationMessagePolicy", "subPath", "prefix")
) | frozenset(
    (
        "restartPolicy",
        "dnsPolicy",
        "nodeName",
        "hostname",
        "subdomain",
        "schedulerName",
        "serviceAccountName",
        "priorityClassName",
    )
)
_LISTS = frozenset(("command", "args", "env", "envFrom", "ports", "volumeMounts", "volumeDevices")) | frozenset(
    ("volumes", "initContainers", "tolerations", "imagePullSecrets", "hostAliases", "topologySpreadConstraints")
)
_MAPS = frozenset(("labels", "annotations", "nodeSelector"))
_UNCOMPARED = _MAPS | {"limits", "requests", "matchLabels"}
_FLAGS = frozenset(("hostNetwork", "hostPID", "hostIPC", "stdin", "stdinOnce", "tty", "readOnly"))
_QUANTITIES = frozenset(("sizeLimit", "divisor"))
_BINARY = re.compile(r"([1-9][0-9]*)[KMGTPE]i\Z")
_DECIMAL = re.compile(r"([1-9][0-9]*)(n|u|m|k|M|G|T|P|E)?\Z")


def check_conversion(job: Any, path: Path = ()) -> Iterator[Remark]:
    """`job` is the template with placeholders filled in; paths are from its top."""
    children = job.items() if isinstance(job, dict) else enumerate(job) if isinstance(job, list) else ()
    for key, value in children:
        where: Path = (*path, key)
        if path and path[-1] in _UNCOMPARED:
            continue
        if _is_left_out(key, value):
            message = f"Katib refuses a Job in which a field is written and empty, as this one is: {shown(value)}"
            yield Remark(where, message, "leave the field out", on=KATIB, at_key=True, code="lost-in-conversion")
        elif key in _QUANTITIES and isinstance(value, (str, int)) and not _is_canonical(value):
            message = f"Katib refuses a quantity that Kubernetes writes in another way than {shown(value)}"
            yield Remark(where, message, "in quotes, with the largest unit that fits", on=KATIB, code="lost-in-conversion")
        else:
            yield from check_conversion(value, where)


def _is_left_out(key: object, value: object) -> bool:
    if value is None:
        return key != "creationTimestamp"
    return (
        (value == "" and key in _TEXTS)
        or (value == [] and key in _LISTS)
        or (value == {} and key in _MAPS)
        or (value is False and key in _FLAGS)
    )


def _is_canonical(value: object) -> bool:
    """Whether Kubernetes writes the quantity as it stands here; 0 is left to the other rules."""
    text = value if isinstance(value, str) else ""
    binary, decimal = _BINARY.match(text), _DECIMAL.match(text)
    if binary:
        return int(binary[1]) % 1024 != 0
    return text == "0" or (decimal is not None and int(decimal[1]) % 1000 != 0)
