from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from katuna.text import duration, printable, shorten


def test_what_steers_a_terminal_is_written_out() -> None:
    assert printable("a\x1b[31m\u202eb\ud800é\r\x00") == r"a\x1b[31m\u202eb\ud800é\r\x00"
    assert printable("a\tb\nc") == r"a\tb\nc"
    assert printable("a\tb\nc\x07", newlines=True) == "a\tb\nc\\x07"


@given(st.text())
def test_any_text_becomes_printable_and_printable_text_stays(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown


def test_shortened_text_says_so() -> None:
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdefg", 6) == "abcde…"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (59.97, "1m00s"),
        (200, "3m20s"),
        (3599.7, "1h00m"),
        (7500, "2h05m"),
        (400_000, "4d15h"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
