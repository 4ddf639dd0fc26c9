from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from katuna.manifest import yamltext
from katuna.manifest.yamltext import MAX_DEPTH, Source, parse

RECORDED = [json.loads(line) for line in Path(__file__).with_name("kubectl_yaml.jsonl").read_text().splitlines()]
"""Texts and what sigs.k8s.io/yaml 1.4.0 (kubectl's library) makes of each: JSON, or a refusal."""


def value_of(text: str) -> Any:
    documents, findings = parse(Source("f.yaml", text))
    assert not findings, findings
    return documents[0].value


def message_of(text: str) -> str:
    findings = parse(Source("f.yaml", text))[1]
    assert len(findings) == 1, findings
    return str(findings[0])


@pytest.fixture(params=["C", "Python"])
def each_loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML with libyaml, and without it."""
    if request.param == "Python":
        monkeypatch.setattr(yamltext, "_Loader", type("Loader", (yamltext._Unresolved, yaml.SafeLoader), {}))


def same(ours: Any, theirs: Any) -> bool:
    """Equal as JSON: types count, but 1 and 1.0 are one number."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, (int, float)) and isinstance(theirs, (int, float)):
        return isinstance(ours, bool) == isinstance(theirs, bool) and math.isclose(ours, theirs, rel_tol=1e-15)
    return type(ours) is type(theirs) and bool(ours == theirs)


@pytest.mark.parametrize("entry", RECORDED, ids=lambda entry: repr(entry["text"]))
def test_a_text_means_what_it_means_to_kubectl(entry: dict[str, Any]) -> None:
    documents, findings = parse(Source("f.yaml", entry["text"]))
    if entry.get("refused"):
        assert findings
    else:
        assert not findings
        assert same(documents[0].value, entry["json"])


def test_places_are_those_of_the_text(each_loader: None) -> None:
    document = parse(Source("f.yaml", "a: 1\nb:\n  - c: é\n  - {d: 2, e: [x]}\n"))[0][0]
    assert document.place(("a",)) == (1, 4)
    assert document.place(("a",), at_key=True) == (1, 1)
    assert document.place(("b", 0, "c")) == (3, 8)
    assert document.place(("b", 1, "e", 0)) == (4, 16)
    assert document.place(("b", 1, "e"), at_key=True) == (4, 12)
    assert document.place(("b", 7, "no", "such")) == (3, 3), "the nearest field around it"


def test_a_place_after_a_byte_order_mark_and_windows_line_ends() -> None:
    document = parse(Source("f.yaml", "\ufeffa: 1\r\nb: x\r\n"))[0][0]
    assert document.value == {"a": 1, "b": "x"}
    assert document.place(("b",)) == (2, 4)


def test_several_documents_and_empty_ones() -> None:
    documents, findings = parse(Source("f.yaml", "---\na: 1\n---\n---\n# nothing\n---\nb: 2\n"))
    assert [document.value for document in documents] == [{"a": 1}, {"b": 2}]
    assert not findings
    assert documents[1].place(("b",)) == (7, 4)


def test_duplicate_keys_are_refused_with_both_places_and_reading_goes_on() -> None:
    _, findings = parse(Source("f.yaml", "a:\n  b: 1\n  b: 2\nc: 1\nc: 2\n"))
    assert [(finding.line, finding.column, finding.path) for finding in findings] == [(3, 3, "a.b"), (5, 1, "c")]
    assert "line 2, column 3" in findings[0].message
    assert parse(Source("f.yaml", "1: a\n'1': b\n"))[1], "kubectl's JSON has text keys: these two are one"


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a:\n\tb: 1\n", "2:1", "spaces"),
        ("a: [1, 2\nb: 3\n", "2:2", "flow sequence that begins at line 1"),
        ("a: b: c\n", "1:5", "quote"),
        ("a: 'x\n", "2:1", "quoted scalar"),
        ("a: *x\n", "1:4", "names no anchor"),
        ("a: &x [*x]\n", "1:4", "contain itself"),
        ("a: &x 1\nb: &x 2\n", "2:4", "anchor of this name"),
        ("a: !mine 1\n", "1:4", "this tag is not supported"),
        ("a: !!binary aGk=\n", "1:4", "use !!str"),
        ("a: !!set {b}\n", "1:4", "tag"),
        ("a: .nan\n", "1:4", "JSON"),
        ("[a]: 1\n", "1:1", "key"),
        ("null: 1\n", "1:1", "null"),
        ("a: \x07\n", "1:4", "U+0007"),
    ],
)
def test_malformed_text_gives_one_finding_at_its_place(each_loader: None, text: str, place: str, words: str) -> None:
    message = message_of(text)
    assert message.startswith(f"f.yaml:{place}: error[not-yaml]:")
    assert words in message


@pytest.mark.parametrize(
    "value",
    [
        *("!hunter2 x", "!hunter2!x y", "!!hunter2 x", "!<hunter2> x", "*hunter2", "&hunter2 [*hunter2]", "!!int hunter2"),
        *("hunter2: x: y", "'hunter2", "[hunter2", "@hunter2", "`hunter2", "%hunter2", "!hunter2 [x]", "!hunter2%zz x"),
        *('"\\hunter2"', "hunter2\n  - hunter2: ["),
    ],
)
def test_no_finding_on_yaml_quotes_what_the_text_holds(each_loader: None, value: str) -> None:
    _, findings = parse(Source("f.yaml", f"kind: Secret\nstringData:\n  pw: {value}\n"))
    assert findings
    assert "hunter2" not in str(findings)
    assert "hunter2" not in repr(Source("f.yaml", "hunter2"))


@pytest.mark.parametrize("text", ["", " \n\n", "---\n", "# a comment\n", "\ufeff", "null\n"])
def test_an_empty_file_says_what_belongs_there(text: str) -> None:
    message = message_of(text)
    assert "empty" in message
    assert "apiVersion" in message


def test_text_that_is_not_unicode() -> None:
    assert "UTF-8" in message_of("a: \ud800\n")


@pytest.mark.parametrize(
    "text",
    ["[" * 20_000, "- " * 20_000, "{a: " * 20_000, "a: &a [" + "[" * 60 + "]" * 60 + "]\nb: " + "[" * 60 + "*a" + "]" * 60],
)
def test_nesting_is_limited_not_the_stack(text: str) -> None:
    assert str(MAX_DEPTH) in message_of(text)


def test_alias_bombs_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "expand" in message_of("\n".join(lines) + "\n")


def test_aliases_repeat_values() -> None:
    assert value_of("a: &x {b: [1]}\nc: *x\n") == {"a": {"b": [1]}, "c": {"b": [1]}}


# YAML has no raw control characters and folds Unicode's line separators.
printable = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | printable,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(printable, children, max_size=4),
    max_leaves=15,
)


@settings(max_examples=150, deadline=None)
@given(json_values)
def test_json_is_yaml(value: Any) -> None:
    if value is None:
        return
    assert same(value_of(json.dumps(value, ensure_ascii=False)), value)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab1:-[]{}&*!|>'\"%@`#,?~<. \t\n\r\x00\ufeff\x85\u2028", max_size=60) | st.text(max_size=60))
def test_no_text_raises(text: str) -> None:
    documents, findings = parse(Source("f.yaml", text))
    assert documents or findings
    assert all(finding.line >= 0 and finding.level == "error" for finding in findings)
