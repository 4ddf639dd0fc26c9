"""docs/lint.md and the codes in the sources are equal, both ways."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from katuna.errors import EVERYWHERE
from katuna.lint.load import Source, lint

ROOT = Path(__file__).parents[2]
PACKAGES = [ROOT / "src" / "katuna" / name for name in ("manifest", "lint")]
PAGE = ROOT / "docs" / "lint.md"
ROW = re.compile(r"\| `([a-z0-9-]+)` \| ([a-z, ]+) \| ([a-z, ]+) \| (.+) \| (.+) \|")


def made() -> Iterator[tuple[str, str | None]]:
    """(place, code) of every Remark(...) and Finding(...) in the sources that is no copy of another one."""
    for path in sorted(path for package in PACKAGES for path in package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("Remark", "Finding"):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", code_of(node)


def code_of(call: ast.Call) -> str | None:
    """The literal `code=`; None where there is none, "" where a helper passes on what it was called with."""
    for keyword in call.keywords:
        if keyword.arg == "code":
            return str(keyword.value.value) if isinstance(keyword.value, ast.Constant) else ""
    return "" if any(isinstance(each, ast.Attribute) and each.attr == "code" for each in call.args) else None


def literals() -> set[str]:
    """Every code that the sources hold: in calls, and as defaults of helpers' `code`."""
    found: set[str] = set()
    for path in (path for package in PACKAGES for path in package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                found |= {
                    each.value.value for each in node.keywords if each.arg == "code" and isinstance(each.value, ast.Constant)
                }
            elif isinstance(node, ast.FunctionDef):
                last = zip(reversed(node.args.args), reversed(node.args.defaults), strict=False)
                found |= {each.value for name, each in last if name.arg == "code" and isinstance(each, ast.Constant)}
    return found - {""}


def test_every_remark_and_finding_has_a_code() -> None:
    assert [place for place, code in made() if code is None] == []


def test_codes_are_words_with_hyphens() -> None:
    assert [code for code in literals() if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", code)] == []


def test_the_page_lists_every_code_and_no_other() -> None:
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    listed = [row[0] for row in rows]
    assert sorted(listed) == sorted(set(listed)), "a code is listed twice"
    assert (sorted(set(literals()) - set(listed)), sorted(set(listed) - literals())) == ([], [])
    for _, levels, engines, _, _ in rows:
        assert {*levels.split(", ")} <= {"error", "warning", "note"}
        assert {*engines.split(", ")} <= {"all", "katib", "cluster", "local"}


def test_levels_and_engines_are_those_of_the_page(
    katib_truth: list[dict[str, Any]], operator_truth: list[dict[str, Any]]
) -> None:
    rows = {code: (levels, engines) for code, levels, engines, _, _ in ROW.findall(PAGE.read_text(encoding="utf-8"))}
    beyond: set[tuple[str, str, tuple[str, ...]]] = set()
    seen: set[str] = set()
    for entry in [*katib_truth, *operator_truth]:
        for finding in lint([Source(entry["file"], entry["text"])]):
            levels, engines = rows[finding.code]
            seen.add(finding.code)
            if finding.level not in levels or not set(finding.on) <= set(EVERYWHERE if engines == "all" else engines.split(", ")):
                beyond.add((finding.code, finding.level, finding.on))
    assert beyond == set()
    assert len(seen) > 60
