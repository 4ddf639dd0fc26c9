"""Events as JSON objects and back; the only place that knows how the journal spells them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from katuna.metrics.line import Report
from katuna.trials import Asked, Edited, Ended, Event, Exited, Known, Opened, Reported, Resumed, Started, Stopping, StopRule

_KINDS: Mapping[str, type[Event]] = MappingProxyType(
    {kind.__name__: kind for kind in (Opened, Known, Asked, Started, Reported, Stopping, Exited, Edited, Resumed, Ended)}
)


def to_json(event: Event) -> dict[str, Any]:
    """`{"event": NAME, ...fields}` of plain JSON values; a Report is `[metric, value]` or `[metric, value, time_us]`."""
    plain: dict[str, Any] = {"event": type(event).__name__}
    for field in fields(event):
        value = getattr(event, field.name)
        plain[field.name] = dict(value) if isinstance(value, Mapping) else value
    if isinstance(event, Asked):
        plain["rules"] = [list(vars(rule).values()) for rule in event.rules]
        plain = {name: value for name, value in plain.items() if value or name not in ("labels", "rules")}
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
    if kind is Asked:
        arguments["rules"] = tuple(StopRule(*entry) for entry in arguments.get("rules", ()))
    for name, value in arguments.items():
        if isinstance(value, dict):
            arguments[name] = MappingProxyType(value)
        elif isinstance(value, list):
            arguments[name] = tuple(value)
    try:
        return kind(**arguments)
    except TypeError as error:
        raise ValueError(f"not a {kind.__name__} event: {error}") from None
