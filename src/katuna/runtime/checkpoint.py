"""Checkpoints that are whole or not there, and a resume that equals the uninterrupted run bit for bit."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import threading
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from katuna.runtime import exchange, randomness, sealed
from katuna.runtime.arguments import Common, course, dashed
from katuna.runtime.packing import Packer, unpacked
from katuna.runtime.parallel import unwrap
from katuna.runtime.world import World

KIND = "katuna-checkpoint/1"
STEP = r"step-\d{6,}"
TENSORS, REST = "tensors.safetensors", "state.json"
ADVICE = "train with the flags it was made with, or into another --trial-dir, or remove it"


class Checkpoints:
    """`folder/step-000120/` each: tensors as safetensors, the rest as JSON, digests of both; written beside, fsynced, renamed.

    `state` names what is saved: modules (DDP, compiled and FSDP2 ones too: full tensors, gathered), optimizers, schedulers, scalers, an
    Order, or anything with state_dict and load_state_dict. Random states of Python, NumPy and torch are saved with them, of each
    rank. `keep` newest stay. Rank 0 writes; every rank calls. With `folder` None nothing is done. With `config` its flags that shape the
    course are kept, with `data` the digest of what is trained on, and a checkpoint of others is refused.

    Buffers that ranks have each their own of, like the averages of a batch norm, are rank 0's. As a context manager it closes itself.
    """

    def __init__(
        self,
        folder: Path | None,
        world: World,
        state: Mapping[str, Any],
        *,
        config: Common | None = None,
        data: str = "",
        keep: int = 2,
        asynchronous: bool = False,
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}; it must be at least 1")
        self._folder, self._world, self._state = folder, world, dict(state)
        self._course = None if config is None else course(config)
        self._data = data
        self._keep, self._asynchronous = keep, asynchronous
        self._writer: threading.Thread | None = None
        self._failure: Exception | None = None
        if folder is not None and world.is_main:
            try:
                sealed.clean(folder, STEP)
            except OSError as error:
                raise SystemExit(
                    f"error: checkpoints cannot be kept in {folder}: {error.strerror}; give another --trial-dir"
                ) from None

    def save(self, step: int, **values: Any) -> None:
        """Saves under `step`; `values`, as JSON has them, are kept beside (the best metric so far, ...). Raises SystemExit(1) with one
        line when the disk is full: the checkpoint before stays. With `asynchronous` the state is copied now and written meanwhile; what goes
        wrong is raised by the next save, or by `close`. Checkpoints of later steps, from which no restore went on, are removed.

        Of the values `loss` must be the same in all ranks. When it or a parameter is not finite the training ends, in one line and
        SystemExit(1): nothing good may give way to what has diverged."""
        loss = values.get("loss")
        if isinstance(loss, float) and not math.isfinite(loss):
            raise SystemExit(diverged("the loss", loss, f"at step {step}") if self._world.is_main else 1)
        if self._folder is None:
            return
        if self._asynchronous:
            self._settle()
        packer = Packer(keep=self._world.is_main)
        form = packer.form(self._tree(step, values), "")
        if self._world.is_main:
            write = partial(self._attempt, self._folder, step, json.dumps(form, allow_nan=False), packer.tensors)
            if self._asynchronous:
                self._writer = threading.Thread(target=write, name="katuna-checkpoint")
                self._writer.start()
            else:
                write()
        if not self._asynchronous:
            self._settle()

    def restore(self) -> tuple[int, dict[str, Any]]:
        """Loads the newest whole checkpoint into `state`, in place; (its step, its values), or (0, {}) where there is none.

        A torn or altered one is refused, saying so on stderr, and the one before it taken. One of a model of another shape
        raises SystemExit(1), naming the tensors. A rank that no random state was saved of (there are more of them now) gets one that
        follows from rank 0's and its own number.
        """
        if self._folder is None:
            return 0, {}
        found = newest_whole(self._folder) if self._world.is_main else None
        content = None if found is None else [(found / name).read_bytes() for name in (REST, TENSORS)]
        content = exchange.from_main(content, self._world)
        if content is None:
            return 0, {}
        try:
            return self._take(unpacked(json.loads(content[0]), safetensors.torch.load(content[1])), self._folder)
        except Exception as error:  # digests say that it is as it was written, not who wrote it
            why = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise SystemExit(
                f"error: checkpoint {found} is not as katuna writes one ({why}); remove it" if found else 1
            ) from error

    def _take(self, saved: dict[str, Any], folder: Path) -> tuple[int, dict[str, Any]]:
        place = folder / step_name(saved["step"])
        if not isinstance(saved["values"], dict):
            raise TypeError("its values are no object")
        others = [*self._other_flags(saved.get("course")), *self._other_data(saved.get("data", ""))]
        self._refuse(place, others, "take the same flags and data, or another --trial-dir")
        self._refuse(place, list(_misfits(saved, self._state)))
        for name, each in self._state.items():
            try:
                _load(each, saved["state"][name])
            except (KeyError, RuntimeError, TypeError, ValueError) as error:
                self._refuse(place, [f"{name} does not take it ({' '.join(str(error).split())})"])
        self._put_randomness(saved["random"])
        return saved["step"], saved["values"]

    def close(self) -> None:
        """Waits for what is still being written. Raises as `save` does."""
        if self._folder is not None and self._asynchronous:
            self._settle()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        elif self._writer is not None:  # the other ranks may be elsewhere
            self._writer.join()

    def _tree(self, step: int, values: Mapping[str, Any]) -> dict[str, Any]:
        random = Packer()
        form = random.form(randomness.captured(self._world.device), "")
        blob = exchange.to_bytes(form, random.tensors)
        blobs = exchange.to_main(blob, self._world)
        return {
            "step": step,
            "course": self._course,
            "data": self._data,
            "values": dict(values),
            "kinds": {name: type(each).__name__ for name, each in self._state.items() if not isinstance(each, nn.Module)},
            "state": {
                name: dict((unwrap(each) if isinstance(each, nn.Module) else each).state_dict())
                for name, each in self._state.items()
            },
            "random": [unpacked(*exchange.from_bytes(each)) for each in blobs],
        }

    def _attempt(self, folder: Path, step: int, rest: str, tensors: dict[str, Tensor]) -> None:
        try:
            for name, module in self._state.items():
                wild = _not_finite(name, module, tensors)
                if wild is not None:
                    raise FloatingPointError(diverged(f"a weight of {name}", wild, f"at step {step}"))
            write(folder, step, rest, tensors, self._keep)
        except Exception as error:  # noqa: BLE001  # it may be a thread's: raised where the ranks meet
            self._failure = error

    def _settle(self) -> None:
        """Waits for the writer; when it failed, every rank ends."""
        if self._writer is not None:
            self._writer.join()
        failure, self._writer, self._failure = self._failure, None, None
        if not self._world.agree(failure is not None):
            return
        if isinstance(failure, OSError | SafetensorError):
            raise SystemExit(f"error: {self._told(failure)}") from failure
        if isinstance(failure, FloatingPointError):
            raise SystemExit(str(failure))
        if failure is not None:
            raise failure
        raise SystemExit(1)

    def _told(self, failure: Exception) -> str:
        assert self._folder is not None
        why = getattr(failure, "strerror", None) or str(failure)
        before = steps(self._folder)
        stays = f"{step_name(before[-1])} is kept, and the next start goes on from it" if before else "there is none before it"
        return f"a checkpoint cannot be written to {self._folder}: {why}; {stays}. Make room and start again"

    def _other_flags(self, saved: Mapping[str, Any] | None) -> list[str]:
        """Those that the checkpoint has with another value; a flag that only one of the two knows is no reason."""
        there, here = saved or {}, self._course or {}
        names = [name for name in here if name in there and there[name] != here[name]]
        return [f"--{dashed(name)} {there[name]} in it and {here[name]} here" for name in names]

    def _other_data(self, saved: str) -> list[str]:
        known = saved and self._data and saved != self._data
        return [f"the SHA-256 of its data is {saved[:12]}..., and that of the data here {self._data[:12]}..."] if known else []

    def _refuse(self, place: Path, wrong: list[str], advice: str = ADVICE) -> None:
        """Raises SystemExit(1) for a checkpoint of something else than `state`, unless nothing is wrong; rank 0 says what."""
        if not wrong:
            return
        named = "; ".join(wrong[:8]) + (f"; and {len(wrong) - 8} more" if len(wrong) > 8 else "")
        raise SystemExit(f"error: checkpoint {place} is of another training: {named}; {advice}" if self._world.is_main else 1)

    def _put_randomness(self, saved: list[dict[str, Any]]) -> None:
        rank = self._world.rank
        if rank < len(saved):
            randomness.put_back(saved[rank], self._world.device)
        else:
            randomness.put_derived(saved[0], rank)


def _not_finite(name: str, module: Any, tensors: Mapping[str, Tensor]) -> float | None:
    """The first value of a module's parameters that is none; buffers may hold infinities, a mask's for example."""
    for parameter, _ in unwrap(module).named_parameters() if isinstance(module, nn.Module) else ():
        copy = tensors.get(f"/state/{name}/{parameter}")  # a tied one is there by its other name
        if copy is not None and not copy.isfinite().all():
            return float(copy[~copy.isfinite()][0])
    return None


def diverged(what: str, value: float, when: str) -> str:
    """The line for what is not finite and should be."""
    return f"error: {what} is {value} {when}: the training diverged; try a lower learning rate"


def trial_folder(given: str, name: str) -> Path | None:
    """`name` below `given`, else below $KATUNA_TRIAL_DIR; None where neither is set."""
    trial = given or os.environ.get("KATUNA_TRIAL_DIR", "")
    return Path(trial).absolute() / name if trial else None


def step_name(step: int) -> str:
    return f"step-{step:06d}"


def steps(folder: Path) -> list[int]:
    """The steps that there are checkpoints of, whole or not, in order."""
    if not folder.is_dir():
        return []
    return sorted(int(entry.name.removeprefix("step-")) for entry in folder.iterdir() if re.fullmatch(STEP, entry.name))


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint whose every byte is as it was written; those refused are named on stderr."""
    there = steps(folder)
    for step in reversed(there):
        place = folder / step_name(step)
        wrong = sealed.problems(place, KIND, (REST, TENSORS))
        if not wrong:
            return place
        print(f"warning: checkpoint {place} is refused: {', '.join(wrong)}; trying the one before it", file=sys.stderr)  # noqa: T201
    if there:
        print(f"warning: no checkpoint in {folder} is whole; the training begins anew", file=sys.stderr)  # noqa: T201
    return None


def write(folder: Path, step: int, rest: str, tensors: dict[str, Tensor], keep: int) -> None:
    """One checkpoint; then those that it makes superfluous go. Raises OSError or SafetensorError."""
    with sealed.writing(folder / step_name(step), KIND) as place:
        safetensors.torch.save_file(tensors, place / TENSORS)
        (place / REST).write_text(rest)
    there = steps(folder)
    past = [each for each in there if each <= step]
    for each in {*there} - {*past[-keep:]}:
        sealed.remove(folder / step_name(each))


def _load(target: Any, state: dict[str, Any]) -> None:
    """Into what has a load_state_dict, shards from whole tensors."""
    if isinstance(target, nn.Module):
        module = unwrap(target)
        current = module.state_dict()
        module.load_state_dict({name: _like(tensor, current[name]) for name, tensor in state.items()})
        return
    if "param_groups" in state and "state" in state:
        own = [parameter for group in target.param_groups for parameter in group["params"]]
        state["state"] = {
            index: {name: _like(value, own[index]) for name, value in entry.items()} for index, entry in state["state"].items()
        }
    target.load_state_dict(state)


def _like(value: Any, own: Any) -> Any:
    """The part of a whole tensor that this rank has of `own`; each rank has the whole, so nothing is sent."""
    if not isinstance(own, DTensor) or not isinstance(value, Tensor) or value.shape != own.shape:
        return value
    return distribute_tensor(value, own.device_mesh, own.placements, src_data_rank=None)


def _misfits(saved: Mapping[str, Any], state: Mapping[str, Any]) -> Iterable[str]:
    """What differs between a checkpoint and what it shall be loaded into, a few words each."""
    for name in sorted({*saved["state"]} ^ {*state}):
        yield f"{name} is {'not in it' if name in state else 'only in it'}"
    for name, each in state.items():
        if name not in saved["state"]:
            continue
        if isinstance(each, nn.Module):
            there, here = _shapes(saved["state"][name]), _shapes(unwrap(each).state_dict())
            for tensor in sorted({*there, *here}):
                if there.get(tensor) != here.get(tensor):
                    yield f"{name}: {tensor} is {there.get(tensor, 'absent')} in it and {here.get(tensor, 'absent')} here"
        elif saved["kinds"].get(name) != type(each).__name__:
            yield f"{name} is of {saved['kinds'].get(name)} in it and {type(each).__name__} here"


def _shapes(tensors: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
        for name, value in tensors.items()
        if isinstance(value, Tensor)
    }
