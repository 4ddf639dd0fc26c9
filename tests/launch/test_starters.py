"""Cold and warm starts keep the same promises."""

from __future__ import annotations

import sys

import pytest

from contracts.starter_contract import StarterContract
from katuna.launch.process import ColdStarter, Starter
from katuna.launch.warm.starter import WarmStarter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


class TestCold(StarterContract):
    def make_starter(self) -> Starter:
        return ColdStarter()


class TestWarm(StarterContract):
    def make_starter(self) -> Starter:
        return WarmStarter()

    def test_a_script_starts_warm(self) -> None:
        assert self.bench.run("python", self.bench.script("import json")).process.how == {"start": "warm"}
