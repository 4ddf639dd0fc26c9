"""A nested state as tensors by path and JSON for the rest, and back, with every type kept; what `state_dict` methods give."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

Json = Any


class Packer:
    """`form(tree, path)` is its JSON; the tensors in it are copied to the CPU into `tensors`, named by their paths.

    A tensor that is met twice (tied weights) is kept once. What JSON has no word for is an object with a key that begins with "$".
    Shards are put together, for which every rank has to call; with `keep` False nothing else is done with them. Raises
    TypeError for a value of any other kind, naming its path.
    """

    def __init__(self, *, keep: bool = True) -> None:
        self._keep = keep
        self.tensors: dict[str, Tensor] = {}
        self._seen: dict[Any, Json] = {}
        self._alive: list[Tensor] = []

    def form(self, tree: Any, path: str) -> Json:
        if tree is None or type(tree) in (bool, int, str):
            return tree
        if type(tree) is float:
            return tree if math.isfinite(tree) else {"$float": str(tree)}
        if isinstance(tree, Tensor):
            return self._tensor(tree, path)
        if isinstance(tree, np.ndarray | np.generic):
            array = torch.from_numpy(np.array(tree))
            return {"$array" if isinstance(tree, np.ndarray) else "$number": self._tensor(array, path)["$tensor"]}
        if isinstance(tree, list | tuple):
            items = [self.form(item, f"{path}/{index}") for index, item in enumerate(tree)]
            return items if isinstance(tree, list) else {"$tuple": items}
        if isinstance(tree, dict):
            return self._dict(tree, path)
        raise TypeError(f"{path} is a {type(tree).__name__}, which a checkpoint cannot hold")

    def _dict(self, tree: dict[Any, Any], path: str) -> Json:
        if not isinstance(tree, Counter) and all(type(key) is str and not key.startswith("$") for key in tree):
            return {key: self.form(value, f"{path}/{key}") for key, value in tree.items()}
        pairs = [[self.form(key, path), self.form(value, f"{path}/{key}")] for key, value in tree.items()]
        return {"$counter" if isinstance(tree, Counter) else "$dict": pairs}

    def _tensor(self, tensor: Tensor, path: str) -> Json:
        sharded = isinstance(tensor, DTensor)
        # A rank's shard may be empty, and nowhere in memory.
        place = id(tensor) if sharded else (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if place in self._seen and tensor.numel():
            return self._seen[place]
        full: Any = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        form: Json = {"$tensor": path}
        if self._keep:
            copy = full.detach().to("cpu", copy=True)
            if not copy.is_contiguous():
                form["strides"] = list(copy.stride())
            self.tensors[path] = copy.contiguous()
        self._seen[place] = form
        self._alive.append(tensor)
        return form


def unpacked(form: Json, tensors: Mapping[str, Tensor]) -> Any:
    """The tree that a Packer's `form` and `tensors` stand for."""
    if isinstance(form, list):
        return [unpacked(item, tensors) for item in form]
    if not isinstance(form, dict):
        return form
    word = next((key for key in form if key.startswith("$")), "")
    return _WORDS[word](form, tensors) if word else {key: unpacked(value, tensors) for key, value in form.items()}


def _unpacked_tensor(form: Json, tensors: Mapping[str, Tensor]) -> Tensor:
    tensor = tensors[form["$tensor"]]
    if "strides" not in form:
        return tensor
    return torch.empty_strided(tensor.shape, form["strides"], dtype=tensor.dtype).copy_(tensor)


_WORDS: dict[str, Callable[[Json, Mapping[str, Tensor]], Any]] = {
    "$float": lambda form, _: float(form["$float"]),
    "$tensor": _unpacked_tensor,
    "$array": lambda form, tensors: tensors[form["$array"]].numpy(),
    "$number": lambda form, tensors: tensors[form["$number"]].numpy()[()],
    "$tuple": lambda form, tensors: tuple(unpacked(item, tensors) for item in form["$tuple"]),
    "$dict": lambda form, tensors: {unpacked(key, tensors): unpacked(value, tensors) for key, value in form["$dict"]},
    "$counter": lambda form, tensors: Counter({unpacked(key, tensors): count for key, count in form["$counter"]}),
}
