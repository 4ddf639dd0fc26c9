"""Checkpoints: what comes back, what is refused, and what a disk that fails leaves."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import resource
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from katuna.runtime import randomness, sealed
from katuna.runtime.arguments import Common, flag
from katuna.runtime.checkpoint import KIND, Checkpoints, newest_whole, steps, trial_folder
from katuna.runtime.packing import Packer, unpacked
from katuna.runtime.world import World

ALONE = World(0, 0, 1, torch.device("cpu"), "")


def network(hidden: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, 2))


def trained(hidden: int = 4, batches: int = 2) -> dict[str, Any]:
    model = network(hidden)
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    for _ in range(batches):
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler}


def opened(folder: Path, **options: Any) -> Checkpoints:
    return Checkpoints(folder, ALONE, trained(batches=0), **options)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# Packing


def test_a_state_comes_back_with_all_its_types() -> None:
    shared = torch.arange(6.0)
    state = {
        "numbers": [1, -(2**70), 0.1, -0.0, math.inf, -math.inf, True, None, "ü\ud800"],
        "keys": {0: "int", "0": "text", None: 1, (1, 2): [()]},
        "$dollar": {"$tensor": "no tensor"},
        "counter": Counter({3: 1, 5: 2}),
        "tuple": (1, [2, (3,)]),
        "numpy": [np.arange(3, dtype=np.uint32), np.float32(0.1), np.array(7), np.zeros((0, 2))],
        "tensors": [
            torch.tensor(3),
            torch.zeros(0),
            torch.ones(2, dtype=torch.bfloat16),
            torch.tensor([True]),
            torch.tensor([1 + 2j]),
        ],
        "tied": {"one": shared, "two": shared},
        "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }
    packer = Packer()
    form = json.loads(json.dumps(packer.form(state, ""), allow_nan=False))
    back = unpacked(form, safetensors.torch.load(safetensors.torch.save(packer.tensors)))

    def same(one: Any, other: Any) -> bool:
        if type(one) is not type(other):
            return False
        if isinstance(one, torch.Tensor):
            return one.dtype == other.dtype and one.stride() == other.stride() and torch.equal(one, other)
        if isinstance(one, np.ndarray | np.generic):
            return one.dtype == other.dtype and np.array_equal(one, other)
        if isinstance(one, dict):
            return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
        if isinstance(one, list | tuple):
            return len(one) == len(other) and all(map(same, one, other))
        return (
            bool(one == other) and math.copysign(1, one) == math.copysign(1, other)
            if isinstance(one, float)
            else bool(one == other)
        )

    assert same(state, back)
    assert back["tied"]["one"] is back["tied"]["two"]
    assert math.isnan(unpacked(packer.form(math.nan, "n"), {}))
    with pytest.raises(TypeError, match=r"state/x is a set"):
        packer.form({"x": set()}, "state")


# Saving and restoring


def test_everything_comes_back(tmp_path: Path) -> None:
    before = trained()
    with Checkpoints(tmp_path, ALONE, before) as checkpoints:
        assert checkpoints.restore() == (0, {})
        checkpoints.save(7, best=0.5, note="a", seen=None, worst=math.inf)
        drawn = random.random(), np.random.rand(), torch.rand(3), random.gauss(0, 1)
    after = trained(batches=0)
    assert Checkpoints(tmp_path, ALONE, after).restore() == (7, {"best": 0.5, "note": "a", "seen": None, "worst": math.inf})
    again = random.random(), np.random.rand(), torch.rand(3), random.gauss(0, 1)
    assert torch.equal(again[2], drawn[2])
    assert (again[0], again[1], again[3]) == (drawn[0], drawn[1], drawn[3])
    for name, each in before.items():
        one, other = Packer(), Packer()
        assert one.form(dict(each.state_dict()), "") == other.form(dict(after[name].state_dict()), "")
        assert all(torch.equal(tensor, other.tensors[path]) for path, tensor in one.tensors.items())
    assert isinstance(after["scheduler"].milestones, Counter)
    assert names(tmp_path / "step-000007") == ["manifest.json", "state.json", "tensors.safetensors"]


def test_tied_weights_are_kept_once_and_stay_tied(tmp_path: Path) -> None:
    def tied() -> nn.ModuleDict:
        model = nn.ModuleDict({"in": nn.Embedding(50, 8), "out": nn.Linear(8, 50, bias=False)})
        model["out"].weight = model["in"].weight
        return model

    model, other = tied(), tied()
    Checkpoints(tmp_path, ALONE, {"model": model}).save(1)
    Checkpoints(tmp_path, ALONE, {"model": other}).restore()
    assert torch.equal(other["in"].weight, model["in"].weight)
    assert other["out"].weight is other["in"].weight
    kept = safetensors.torch.load_file(tmp_path / "step-000001" / "tensors.safetensors")
    assert [tuple(tensor.shape) for name, tensor in kept.items() if "model" in name] == [(50, 8)]


def test_the_newest_stay_and_those_of_another_course_go(tmp_path: Path) -> None:
    checkpoints = opened(tmp_path, keep=2)
    for step in (1, 2, 3, 1_000_000):
        checkpoints.save(step)
    assert names(tmp_path) == ["step-000003", "step-1000000"]
    checkpoints.save(2)
    assert names(tmp_path) == ["step-000002"]
    with pytest.raises(ValueError, match="keep is 0"):
        opened(tmp_path, keep=0)


def test_a_step_that_is_saved_again_is_the_new_one(tmp_path: Path) -> None:
    checkpoints = opened(tmp_path)
    checkpoints.save(1, best=1.0)
    checkpoints.save(1, best=2.0)
    assert names(tmp_path) == ["step-000001"]
    assert checkpoints.restore() == (1, {"best": 2.0})


def test_an_asynchronous_save_holds_the_state_of_its_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    go_on, real = threading.Event(), safetensors.torch.save_file

    def slow(*arguments: Any, **named: Any) -> None:
        assert go_on.wait(30)
        real(*arguments, **named)

    monkeypatch.setattr(safetensors.torch, "save_file", slow)
    state = trained()
    was = state["model"][0].weight.detach().clone()
    with Checkpoints(tmp_path, ALONE, state, asynchronous=True) as checkpoints:
        checkpoints.save(1)
        with torch.no_grad():
            state["model"][0].weight.zero_()
        assert steps(tmp_path) == []
        go_on.set()
    other = trained(batches=0)
    assert Checkpoints(tmp_path, ALONE, other).restore()[0] == 1
    assert torch.equal(other["model"][0].weight, was)


def test_without_a_folder_nothing_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Checkpoints(None, ALONE, trained()) as checkpoints:
        checkpoints.save(1)
        assert checkpoints.restore() == (0, {})
    assert names(tmp_path) == []


def test_the_trials_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KATUNA_TRIAL_DIR", raising=False)
    assert trial_folder("", "export") is None
    monkeypatch.setenv("KATUNA_TRIAL_DIR", str(tmp_path))
    assert trial_folder("", "export") == tmp_path / "export"
    assert trial_folder(str(tmp_path / "own"), "export") == tmp_path / "own" / "export"


def test_a_rank_without_a_saved_random_state_gets_one_that_follows(tmp_path: Path) -> None:
    torch.manual_seed(5)
    Checkpoints(tmp_path, ALONE, trained()).save(1)

    def drawn(rank: int) -> tuple[float, ...]:
        torch.manual_seed(rank + 100)
        checkpoints = Checkpoints(tmp_path, ALONE, trained(batches=0))
        checkpoints._world = World(rank, rank, 4, torch.device("cpu"), "")
        if rank:
            checkpoints._put_randomness([unpacked_random(tmp_path)])
        else:
            checkpoints.restore()
        return torch.rand(1).item(), float(np.random.rand()), random.random()

    every = [drawn(rank) for rank in (0, 1, 2)]
    assert len({value for each in every for value in each}) == 9
    assert every == [drawn(rank) for rank in (0, 1, 2)]


def unpacked_random(folder: Path) -> Any:
    place = newest_whole(folder)
    assert place is not None
    tensors = safetensors.torch.load_file(place / "tensors.safetensors")
    return unpacked(json.loads((place / "state.json").read_text()), tensors)["random"][0]


def test_a_seed_is_for_all_three_and_each_rank_has_its_own() -> None:
    def drawn(*given: int) -> tuple[float, float, float]:
        randomness.seed(*given)
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    assert drawn(3) == drawn(3)
    assert len({value for given in ((3,), (4,), (3, 1), (2**63 - 1, 7)) for value in drawn(*given)}) == 12


def test_random_states_of_python_numpy_and_torch() -> None:
    random.gauss(0, 1)
    np.random.standard_normal()
    state = randomness.captured(torch.device("cpu"))
    first = random.gauss(0, 1), float(np.random.standard_normal()), torch.randn(1).item()
    randomness.put_back(state, torch.device("cpu"))
    assert (random.gauss(0, 1), float(np.random.standard_normal()), torch.randn(1).item()) == first


# What is refused


@pytest.fixture
def two(tmp_path: Path) -> Path:
    checkpoints = opened(tmp_path / "two")
    checkpoints.save(1, best=1.0)
    checkpoints.save(2, best=2.0)
    return tmp_path / "two"


def test_any_other_byte_anywhere_is_noticed(two: Path) -> None:
    folder, draw = two / "step-000002", random.Random(0)
    for name in names(folder):
        content = (folder / name).read_bytes()
        places = range(len(content)) if name == "manifest.json" else draw.sample(range(len(content)), 150)
        for place in places:
            changed = bytearray(content)
            changed[place] ^= 1 << draw.randrange(8)
            (folder / name).write_bytes(changed)
            assert sealed.problems(folder, KIND), (name, place)
        (folder / name).write_bytes(content)
    assert sealed.problems(folder, KIND) == []


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("damage", [_flip, _cut, Path.unlink])
@pytest.mark.parametrize("name", ["manifest.json", "state.json", "tensors.safetensors"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_used(
    two: Path, capsys: pytest.CaptureFixture[str], damage: Any, name: str
) -> None:
    damage(two / "step-000002" / name)
    checkpoints = opened(two)
    assert checkpoints.restore() == (1, {"best": 1.0})
    said = capsys.readouterr().err
    assert f"{two}/step-000002 is refused: {name} " in said
    assert len(said.splitlines()) == 1
    checkpoints.save(2)
    assert checkpoints.restore()[0] == 2
    assert capsys.readouterr().err == ""


def _resealed(folder: Path, name: str, change: Any) -> None:
    """Another content of one JSON file of a checkpoint, with digests that are right."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["digest"]
    if name == "manifest.json":
        change(manifest)
    else:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))
        manifest["files"][name] = sealed._fact(folder / name)
    (folder / "manifest.json").write_text(sealed._sealed(manifest))


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.pop("format"),
        lambda manifest: manifest.pop("files"),
        lambda manifest: manifest.update(files=["state.json"]),
        lambda manifest: manifest["files"]["state.json"].pop("sha256"),
        lambda manifest: manifest["files"].update({"state.json": None}),
        lambda manifest: manifest["files"].pop("state.json"),
    ],
)
def test_a_manifest_of_another_make_is_refused_though_its_digest_is_right(
    two: Path, capsys: pytest.CaptureFixture[str], change: Any
) -> None:
    _resealed(two / "step-000002", "manifest.json", change)
    assert opened(two).restore() == (1, {"best": 1.0})
    assert f"{two}/step-000002 is refused: manifest.json " in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        *(lambda state, key=key: state.pop(key) for key in ("step", "values", "kinds", "state", "random")),
        *(lambda state, key=key: state.update({key: 7}) for key in ("course", "values", "kinds", "state", "random")),
        lambda state: state.update(random=[]),
        lambda state: state["random"][0].pop("python"),
        lambda state: state["random"][0]["torch"].update({"$tensor": "nowhere"}),
        lambda state: state.update(step={"$nonsense": 1}),
        lambda state: state["state"].update(model=[1]),
    ],
)
def test_a_state_of_another_make_is_one_line_though_its_digests_are_right(two: Path, change: Any) -> None:
    _resealed(two / "step-000002", "state.json", change)
    with pytest.raises(SystemExit) as refused:
        opened(two, config=Common()).restore()
    assert str(refused.value).startswith(f"error: checkpoint {two}/step-000002 is "), refused.value
    assert "\n" not in str(refused.value)


def test_when_none_is_whole_the_training_begins_anew(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (1, 2):
        _cut(two / f"step-{step:06d}" / "tensors.safetensors")
    assert opened(two).restore() == (0, {})
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    assert said[-1] == f"warning: no checkpoint in {two} is whole; the training begins anew"


def test_another_model_is_refused_by_its_tensors(two: Path) -> None:
    with pytest.raises(SystemExit) as left:
        Checkpoints(two, ALONE, trained(hidden=5)).restore()
    said = str(left.value.code)
    assert "step-000002 is of another training" in said
    assert "model: 0.weight is float32 [4, 3] in it and float32 [5, 3] here" in said
    assert "--trial-dir" in said
    assert "\n" not in said


def test_another_optimizer_or_another_part_is_refused(two: Path) -> None:
    state = trained(batches=0)
    sgd = {**state, "optimizer": torch.optim.SGD(state["model"].parameters(), lr=0.1)}
    with pytest.raises(SystemExit, match="optimizer is of AdamW in it and SGD here"):
        Checkpoints(two, ALONE, sgd).restore()
    with pytest.raises(SystemExit, match="optimizer is only in it; scaler is not in it"):
        Checkpoints(
            two, ALONE, {"model": state["model"], "scheduler": state["scheduler"], "scaler": torch.amp.GradScaler("cpu")}
        ).restore()


def test_what_does_not_take_its_state_is_named(two: Path, tmp_path: Path) -> None:
    state = trained(batches=0)
    state["optimizer"] = torch.optim.AdamW([{"params": [each]} for each in state["model"].parameters()])
    with pytest.raises(
        SystemExit, match=r"step-000002 is of another training: optimizer does not take it \(.*parameter group.*\); "
    ):
        Checkpoints(two, ALONE, state).restore()
    Checkpoints(tmp_path / "scaler", ALONE, {"scaler": torch.amp.GradScaler("cpu", enabled=False)}).save(1)
    with pytest.raises(SystemExit, match="scaler does not take it"):
        Checkpoints(tmp_path / "scaler", ALONE, {"scaler": torch.amp.GradScaler("cpu", enabled=True)}).restore()


def test_other_flags_that_shape_the_course_are_refused(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Config(Common):
        lr: float = flag(0.1, "learning rate")
        peak: float = flag(0.0, "of the device")
        FREE = Common.FREE | {"peak"}

    def kept(config: Common | None) -> Checkpoints:
        return Checkpoints(tmp_path, ALONE, trained(batches=0), config=config)

    kept(Config()).save(1)
    assert kept(Config(peak=1.0, workers=3, max_steps=9, trial_dir="x", strategy="fsdp")).restore() == (1, {})
    assert kept(None).restore() == (1, {})
    with pytest.raises(SystemExit) as left:
        kept(Config(lr=0.2, seed=1)).restore()
    assert left.value.code == (
        f"error: checkpoint {tmp_path / 'step-000001'} is of another training: --seed 0 in it and 1 here; --lr 0.1 in it and 0.2 here; "
        "take the same flags and data, or another --trial-dir"
    )


def test_other_data_are_refused(tmp_path: Path) -> None:
    opened(tmp_path, data="a" * 64).save(1)
    assert opened(tmp_path, data="a" * 64).restore() == opened(tmp_path).restore() == (1, {})
    with pytest.raises(SystemExit) as left:
        opened(tmp_path, data="b" * 64).restore()
    assert left.value.code == (
        f"error: checkpoint {tmp_path / 'step-000001'} is of another training: the SHA-256 of its data is aaaaaaaaaaaa..., "
        "and that of the data here bbbbbbbbbbbb...; take the same flags and data, or another --trial-dir"
    )


@pytest.mark.parametrize("loss", [math.nan, math.inf])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_has_diverged_is_not_saved(two: Path, loss: float, asynchronous: bool) -> None:
    line = f"error: the loss is {loss} at step 3: the training diverged; try a lower learning rate"
    with pytest.raises(SystemExit) as left:
        opened(two).save(3, loss=loss)
    assert left.value.code == line
    checkpoints = opened(two, asynchronous=asynchronous)
    with torch.no_grad():
        checkpoints._state["model"][0].weight[1, 1] = loss
    with pytest.raises(SystemExit) as left:
        save_and_close(checkpoints)
    assert left.value.code == line.replace("the loss", "a weight of model")
    assert names(two) == ["step-000001", "step-000002"]


def save_and_close(checkpoints: Checkpoints) -> None:
    checkpoints.save(3, loss=1.0)
    checkpoints.close()


# Faults


def test_what_a_killed_process_left_is_cleaned_at_the_next_start(two: Path) -> None:
    (two / ".step-000003.new-0123abcd").mkdir()
    (two / ".step-000003.new-0123abcd" / "tensors.safetensors").write_bytes(b"half")
    (two / ".step-000001.gone").mkdir()
    (two / "step-000002").rename(two / ".step-000002.old")
    (two / ".other").mkdir()
    checkpoints = opened(two)
    assert names(two) == [".other", "step-000001", "step-000002"]
    assert checkpoints.restore()[0] == 2


@pytest.fixture
def file_limit() -> Iterator[None]:
    """No file may grow beyond 1,000 bytes: what a write gets then is an error like that of a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_write_that_fails_ends_with_one_line(two: Path, file_limit: None, asynchronous: bool) -> None:
    checkpoints = opened(two, asynchronous=asynchronous)

    def save() -> None:
        checkpoints.save(3)
        checkpoints.close()

    with pytest.raises(SystemExit) as left:
        save()
    said = str(left.value.code)
    assert said.startswith(f"error: a checkpoint cannot be written to {two}: ")
    assert "step-000002 is kept" in said
    assert "\n" not in said
    assert names(two) == ["step-000001", "step-000002"]
    assert opened(two).restore() == (2, {"best": 2.0})
    checkpoints.close()


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["/usr/bin/env", "mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        checkpoints = opened(disk / "checkpoints", keep=5)
        checkpoints.save(1)
        (disk / "ballast").write_bytes(bytes(440_000 - sum(file.stat().st_size for file in disk.rglob("*") if file.is_file())))

        def save_on_and_on() -> None:
            for step in range(2, 40):
                checkpoints.save(step)

        with pytest.raises(SystemExit, match=r"^error: a checkpoint cannot be written to .*: .*No space left.*step-0000"):
            save_on_and_on()
        newest = max(steps(disk / "checkpoints"))
        assert opened(disk / "checkpoints").restore()[0] == newest
        (disk / "ballast").unlink()
        checkpoints.save(50)
        assert checkpoints.restore()[0] == 50
    finally:
        subprocess.run(["/usr/bin/env", "umount", str(disk)], check=True)


def test_whatever_step_of_a_write_fails_the_one_before_stays(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [0]

    def failing(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def wrapped(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, wrapped)

    for owner, name in ((os, "fsync"), (Path, "mkdir"), (Path, "write_text"), (safetensors.torch, "save_file"), (Path, "rename")):
        failing(owner, name)
    failed = 0
    for number in range(1, 30):
        checkpoints = opened(two)
        left[0] = number
        try:
            checkpoints.save(3, best=3.0)
        except SystemExit:
            failed += 1
            left[0] = 0
            assert opened(two).restore() in ((2, {"best": 2.0}), (3, {"best": 3.0}))
            assert not [name for name in names(two) if name.startswith(".") and "new" in name]
        for step in steps(two):
            assert sealed.problems(two / f"step-{step:06d}", KIND) == []
    assert failed >= 8


def test_an_error_of_ours_in_the_writer_is_raised_by_the_next_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: Any) -> None:
        raise RuntimeError("not a matter of the disk")

    monkeypatch.setattr(safetensors.torch, "save_file", wrong)
    checkpoints = opened(tmp_path, asynchronous=True)
    checkpoints.save(1)
    with pytest.raises(RuntimeError, match="not a matter of the disk"):
        checkpoints.save(2)
