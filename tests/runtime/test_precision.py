"""Flags of speed, as far as a CPU has them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from katuna.runtime.arguments import Common
from katuna.runtime.precision import precision, prepared
from katuna.runtime.world import World

ALONE = World(0, 0, 1, torch.device("cpu"), "")


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


@pytest.mark.parametrize(("name", "dtype"), [("float32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_decides_what_the_products_are_made_in(name: str, dtype: torch.dtype) -> None:
    speed, model = precision(Common(precision=name), ALONE), linear()  # type: ignore[arg-type]
    with speed.autocast():
        scores = model(torch.ones(2, 4))
    assert scores.dtype == dtype
    speed.backward(scores.float().sum())
    assert model.weight.grad is not None
    assert model.weight.grad.dtype == torch.float32
    assert not speed.scaler.is_enabled()


def test_fp16_is_refused_on_a_cpu() -> None:
    with pytest.raises(SystemExit, match="error: --precision fp16 needs CUDA, the device is cpu; bf16 works here"):
        precision(Common(precision="fp16"), ALONE)


def test_a_step_clips_steps_and_clears() -> None:
    model, speed = linear(), precision(Common(), ALONE)
    before = model.weight.detach().clone()
    speed.backward(100 * model(torch.ones(2, 4)).sum())
    expected = torch.cat([part.grad.flatten() for part in model.parameters() if part.grad is not None]).norm()
    norm = speed.step(torch.optim.SGD(model.parameters(), 1.0), model, clip=0.5)
    moved = torch.cat([(before - model.weight).flatten(), torch.zeros(0)])
    assert norm == pytest.approx(expected.item())
    assert moved.detach().norm() == pytest.approx(0.5 * (2 * 100 * 12**0.5) / norm.item(), rel=1e-5)
    assert model.weight.grad is None


def test_no_clip_is_no_clip() -> None:
    model, speed = linear(), precision(Common(), ALONE)
    before = model.bias.detach().clone()
    speed.backward(model(torch.ones(2, 4)).sum())
    assert speed.step(torch.optim.SGD(model.parameters(), 1.0), model).isnan()
    assert (before - model.bias).tolist() == pytest.approx([2.0] * 3)


def test_preparing_keeps_the_model_itself() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3))
    names = list(model.state_dict())
    ready = prepared(model, Common(compile=True), ALONE, channels_last=True)
    assert ready is model
    assert list(ready.state_dict()) == names
    assert ready[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert ready._compiled_call_impl is not None
    assert prepared(nn.Linear(1, 1), Common(), ALONE)._compiled_call_impl is None
