"""Benches for programs that start under a guard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starts import STARTERS, Bench

from katuna.launch.process import ColdStarter
from katuna.launch.warm.starter import WarmStarter


@pytest.fixture(params=STARTERS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    starter = STARTERS[request.param]()
    yield Bench(starter, tmp_path)
    starter.close()


@pytest.fixture
def warm_bench(tmp_path: Path) -> Iterator[Bench]:
    starter = WarmStarter()
    yield Bench(starter, tmp_path)
    starter.close()


@pytest.fixture
def both(tmp_path: Path, warm_bench: Bench) -> tuple[Bench, Bench]:
    return Bench(ColdStarter(), tmp_path, 1000), warm_bench
