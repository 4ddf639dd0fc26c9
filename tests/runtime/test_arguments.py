"""A dataclass as a program's flags."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, fields
from typing import Literal

import pytest

from katuna.runtime.arguments import Common, bounded, flag, parse


@dataclass(frozen=True)
class Config(Common):
    rows: int = flag(3, "how many; 100% of them")
    rate: float = flag(0.5, "of what")
    kind: Literal["a", "b"] = flag("a", "which")

    def __post_init__(self) -> None:
        super().__post_init__()
        bounded(self, "rows", least=1)
        bounded(self, "rate", above=0, below=1)


def test_fields_are_flags_with_their_types() -> None:
    assert parse(Config, []) == Config()
    given = parse(Config, ["--rows=7", "--rate", "1e-3", "--kind=b", "--tf32", "--no-compile", "--max-steps=9", "--trial-dir=x"])
    assert given == Config(rows=7, rate=0.001, kind="b", tf32=True, compile=False, max_steps=9, trial_dir="x")


def test_help_has_every_field_and_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(Config, ["--help"], doc="Trains a thing.\n\nAnd more.")
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Trains a thing." in text
    assert "And more." not in text
    for each in fields(Config):
        assert f"--{each.name.replace('_', '-')}" in text
        assert each.metadata["doc"] + (f" (default: {each.default})" if each.default != "" else "") in text
    assert "(default: )" not in text


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("--row=3", "unrecognized arguments: --row=3; did you mean --rows?"),
        ("--zzz=3", "unrecognized arguments: --zzz=3\n"),
        (f"--seed={2**64}", f"--seed is {2**64}; it must be at least 0 and below {2**63}"),
        ("--rows=1.5", "argument --rows: invalid int value: '1.5'"),
        ("--rows=0", "--rows is 0; it must be at least 1"),
        ("--rate=0", "--rate is 0.0; it must be above 0 and below 1"),
        ("--rate=1", "--rate is 1.0; it must be above 0 and below 1"),
        ("--rate=nan", "--rate is nan; it must be above 0 and below 1"),
        ("--kind=c", "argument --kind: invalid choice: 'c'"),
        ("--accumulate=0", "--accumulate is 0; it must be at least 1"),
        ("--max-steps=-1", "--max-steps is -1; it must be at least 0"),
        ("--time-limit=inf", "--time-limit is inf; it must be at least 0 and finite"),
        ("--tf32=yes", "--tf32"),
    ],
)
def test_what_cannot_train_is_refused(given: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(Config, [given])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 2
    assert said.endswith(" --help\n")


def test_all_that_one_rule_refuses_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(Config, ["--clip=-1", "--workers=-2"])
    assert "--clip is -1.0; it must be at least 0; --workers is -2; it must be at least 0" in capsys.readouterr().err


def test_reading_flags_needs_no_torch() -> None:
    code = "import sys, katuna.runtime.arguments; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
