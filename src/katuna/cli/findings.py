"""How findings are shown: lines for a person, and the formats that editors, code hosts and scripts read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from katuna.errors import EVERYWHERE, Finding
from katuna.manifest.sources import STDIN_NAME
from katuna.text import counted, printable

LEVELS = ("error", "warning", "note")
SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
RULES_PAGE = "docs/lint.md"


def lines(findings: Sequence[Finding]) -> list[str]:
    """One line a finding: `file:line:column: level[code] on ENGINES: path: message (repair)`. A rule that is an error on one engine
    and less on another is one line."""
    told: dict[tuple[str, int, int, str, str], list[Finding]] = {}
    for finding in findings:
        told.setdefault((finding.file, finding.line, finding.column, finding.code, finding.path), []).append(finding)
    return [printable(_line(finding, others)) for finding, others in _folded(told.values())]


def _folded(groups: Iterable[list[Finding]]) -> Iterable[tuple[Finding, list[Finding]]]:
    """Each finding with those that say the same of other engines at a lower level."""
    for group in groups:
        worst = min(group, key=lambda each: LEVELS.index(each.level))
        rest = [each for each in group if each is not worst]
        same = [each for each in rest if each.level != worst.level and not set(each.on) & set(worst.on)]
        yield worst, same
        yield from ((each, []) for each in rest if each not in same)


def _line(finding: Finding, others: Sequence[Finding]) -> str:
    return finding.line_with("".join(f", {each.level} on {', '.join(each.on)}" for each in others))


def summary(findings: Sequence[Finding], files: int) -> str:
    """How many of each level, or that there is nothing."""
    numbers = [(sum(finding.level == level for finding in findings), level) for level in LEVELS]
    said = ", ".join(counted(number, level) for number, level in numbers if number)
    return f"{counted(files, 'file')}: {said or 'nothing to remark'}"


def objects(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    order = ("code", "level", "file", "line", "column", "path", "value", "message", "hint", "on")
    return [{name: getattr(finding, name) for name in order} | {"on": list(finding.on)} for finding in findings]


# GitHub's workflow commands: what a runner turns into annotations on the lines of a change.


def github(findings: Sequence[Finding]) -> list[str]:
    kinds = {"error": "error", "warning": "warning", "note": "notice"}
    return [f"::{kinds[finding.level]} {_properties(finding)}::{_data(_sentence(finding))}" for finding in findings]


def _properties(finding: Finding) -> str:
    place = {"file": _below(finding.file)} if _is_file(finding) else {}
    if place and finding.line:
        place |= {"line": str(finding.line), "col": str(finding.column)}
    return ",".join(f"{name}={_property(value)}" for name, value in {**place, "title": finding.code}.items())


def _sentence(finding: Finding) -> str:
    """What the finding says, with its place where the format's own locations cannot hold it."""
    piped = finding.file == STDIN_NAME and finding.line
    path = f"line {finding.line}, column {finding.column}: " if piped else ""
    path += f"{finding.path}: " if finding.path else ""
    hint = f" ({finding.hint})" if finding.hint else ""
    engines = "" if set(finding.on) == set(EVERYWHERE) else f" [{', '.join(finding.on)}]"
    return f"{path}{finding.message}{hint}{engines}"


def _data(text: str) -> str:
    """What follows the second `::`: a runner ends it at a line's end and decodes `%25`, `%0D` and `%0A`."""
    text = printable(text, newlines=True)
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """A runner decodes `%3A` and `%2C` too, so that a path stays the path; what it has no code for is written out."""
    for char in "%\r\n:,":
        text = text.replace(char, f"%{ord(char):02X}")
    return printable(text)


# SARIF 2.1.0.


def sarif(findings: Sequence[Finding], version: str) -> dict[str, Any]:
    codes = list(dict.fromkeys(finding.code for finding in findings))
    rules = [{"id": code, "help": {"text": f"{code} in {RULES_PAGE}"}} for code in codes]
    driver = {"name": "katuna", "version": version, "rules": rules}
    results = [_result(finding, codes.index(finding.code)) for finding in findings]
    return {
        "$schema": SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}],
    }


def _result(finding: Finding, rule: int) -> dict[str, Any]:
    located: dict[str, Any] = {}
    if _is_file(finding):
        located["physicalLocation"] = _physical(finding)
    if finding.path:
        located["logicalLocations"] = [{"fullyQualifiedName": finding.path}]
    return {
        "ruleId": finding.code,
        "ruleIndex": rule,
        "level": finding.level,
        "message": {"text": _sentence(finding)},
        **({"locations": [located]} if located else {}),
        "properties": {"on": list(finding.on), **({"value": finding.value} if finding.value else {})},
    }


def _physical(finding: Finding) -> Mapping[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": _uri(finding.file)}}
    if finding.line:
        place["region"] = {"startLine": finding.line, "startColumn": finding.column}
    return place


def _is_file(finding: Finding) -> bool:
    return finding.file not in ("", STDIN_NAME)


def _below(file: str) -> str:
    """The file's path from the current folder, where it is below it: what both formats mean by a path."""
    path, here = Path(file), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _uri(file: str) -> str:
    from urllib.parse import quote

    quoted = quote(os.fsencode(_below(file)))
    return f"file://{quoted}" if quoted.startswith("/") else quoted
