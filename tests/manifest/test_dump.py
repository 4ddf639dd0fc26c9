from __future__ import annotations

from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from katuna.manifest.dump import to_yaml
from katuna.manifest.yamltext import Source, parse

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=20) | st.sampled_from(
    [
        "1e-5",
        "0x1f",
        "1_000",
        "yes",
        "n",
        "null",
        "~",
        "",
        " x ",
        "a: b",
        "a #b",
        "- x",
        "1:30",
        "2026-01-01",
        "<<",
        "=",
        ".inf",
        "0o7",
        "+1",
        "line\nline\n",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=10,
)


def test_a_text_that_kubectl_would_take_for_a_number_is_quoted() -> None:
    assert to_yaml({"lr": "1e-5", "epochs": 3, "name": "plain"}) == 'lr: "1e-5"\nepochs: 3\nname: plain\n'


def test_what_occurs_twice_is_written_twice() -> None:
    same = ["a"]
    assert to_yaml({"left": same, "right": same}) == "left:\n- a\nright:\n- a\n"


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=20))
def test_nothing_in_it_steers_a_terminal_and_it_reads_back(text: str) -> None:
    written = to_yaml({text: [text, f"a\x1b{text}\u202e\x9b\n"]})
    assert written.replace("\n", "").replace("\t", "").isprintable(), ascii(written)
    assert yaml.safe_load(written) == {text: [text, f"a\x1b{text}\u202e\x9b\n"]}


@settings(deadline=None)
@given(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=3))
def test_reads_back_as_kubectl_and_as_pyyaml_read(manifest: dict[str, Any]) -> None:
    text = to_yaml(manifest)
    documents, findings = parse(Source("x.yaml", text))
    assert findings == []
    assert documents[0].value == manifest
    assert yaml.safe_load(text) == manifest
