"""Events as JSON objects and back; the only place that knows how the journal spells them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, fields
from types import MappingProxyType
from typing import Any

from katuna.jobs.lifecycle import ContainerExited, ContainerStarted
from katuna.metric_line import Report
from katuna.search.trials import (
    Asked,
    Edited,
    Ended,
    Event,
    Exited,
    Known,
    Noted,
    Opened,
    Reported,
    Resumed,
    Started,
    Stopping,
    StopRule,
)

_KINDS: Mapping[str, type[Event]] = MappingProxyType(
    {
        kind.__name__: kind
        for kind in (
            *(Opened, Known, Asked, Started, ContainerStarted, Reported, Noted),
            *(ContainerExited, Stopping, Exited, Edited, Resumed, Ended),
        )
    }
)
RETIRED = ("JobOpened",)
"""Events with which journals of the first version began that are of another kind."""
_PLAIN = (int, float, str, tuple)
"""Not looked at twice, as most values are one of these."""

_LEFT_OUT: Mapping[type[Event], tuple[str, ...]] = MappingProxyType(
    {
        Asked: ("labels", "rules"),
        Opened: ("code", "no_code"),
        Edited: ("code",),
        Exited: ("warnings",),
        ContainerExited: ("message",),
    }
)
"""Fields that are not written where there is nothing in them."""

_FIELDS = {kind: tuple(field.name for field in fields(kind)) for kind in _KINDS.values()}


def to_json(event: Event) -> dict[str, Any]:
    """`{"event": NAME, ...fields}` of plain JSON values; a Report is `[metric, value]` or `[metric, value, time_us]`."""
    kind = type(event)
    plain: dict[str, Any] = {"event": kind.__name__}
    for name in _FIELDS[kind]:
        value = getattr(event, name)
        plain[name] = value if type(value) in _PLAIN or not isinstance(value, Mapping) else dict(value)
    if isinstance(event, Asked):
        plain["rules"] = [list(astuple(rule)) for rule in event.rules]
    if kind in _LEFT_OUT:
        plain = {name: value for name, value in plain.items() if value or name not in _LEFT_OUT[kind]}
    if isinstance(event, Reported):
        plain["reports"] = [
            [report.metric, report.value] if report.time_us is None else [report.metric, report.value, report.time_us]
            for report in event.reports
        ]
    return plain


def from_json(plain: Mapping[str, Any]) -> Event:
    """Raises ValueError for an object that is no event of this version."""
    arguments = dict(plain)
    kind = _KINDS.get(arguments.pop("event", ""))
    if kind is None:
        raise ValueError(f"unknown event {plain.get('event')!r}")
    if kind is Reported:
        arguments["reports"] = tuple(Report(*entry) for entry in arguments["reports"])
    elif kind is Asked:
        arguments["rules"] = tuple(StopRule(*entry) for entry in arguments.get("rules", ()))
    for name, value in arguments.items():
        if type(value) in _PLAIN:
            continue
        if isinstance(value, dict):
            arguments[name] = MappingProxyType(value)
        elif isinstance(value, list):
            arguments[name] = tuple(value)
    try:
        return kind(**arguments)
    except TypeError as error:
        raise ValueError(f"not a {kind.__name__} event: {error}") from None
