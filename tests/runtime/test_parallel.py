"""DDP, FSDP2, accumulation and one process train the same model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from shared_model import WAYS, train

import ranks
from katuna.runtime.world import World

TOLERANCE = 1e-5
"""Between weights of order 1 after 15 steps: sums in float32 differ by the order of their terms, and by nothing else."""


@pytest.mark.parametrize("size", [2])
def test_every_way_of_sharing_trains_the_same_model(size: int) -> None:
    done = ranks.run([Path(__file__).with_name("shared_model.py")], size)
    assert [(code, err) for code, _, err in done] == [(0, "")] * size
    shared = json.loads(done[0][1])
    assert done[1][1] == ""
    alone = World(0, 0, 1, torch.device("cpu"), "")
    for way, found in zip(WAYS, shared, strict=True):
        single = train(*way, alone)
        assert found.keys() == single.keys(), way
        for name, values in single.items():
            assert found[name] == pytest.approx(values, abs=TOLERANCE, rel=TOLERANCE), (way, name)
    plain, clipped = shared[0], shared[1]
    assert plain["0.weight"] != pytest.approx(clipped["0.weight"], abs=100 * TOLERANCE), "clipping did nothing"
