"""What a training leaves behind for evaluation, registry and serving, which import no trainer: weights, graph, schema, metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Field:
    """One input or output tensor, or one column of a table.

    `dtype` as ONNX Runtime names it without "tensor()": float, int64, string. `shape` without the batch, () for a column.
    `categories` map a column's texts to 0.. in their order (-1 and unknown: see `missing`); `missing` is what stands for a missing
    value: "nan", a category's text, or "" where none may be missing.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    categories: tuple[str, ...] = ()
    missing: str = ""
    doc: str = ""


@dataclass(frozen=True)
class Schema:
    """`task`: classification, regression or language-model; `labels`: class names in the order of the scores."""

    task: str
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    labels: tuple[str, ...] = ()
    columns: tuple[Field, ...] = ()
    """Of a table: how each column of a row becomes part of the inputs, in their order."""
    extra: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


def export(
    folder: Path | None,
    model: nn.Module,
    example: Sequence[Tensor],
    *,
    config: Any,
    schema: Schema,
    metrics: Mapping[str, float],
    model_arguments: Mapping[str, Any],
    trainer: str,
) -> None:
    """Writes `folder` anew, whole or not at all: model.safetensors, model.onnx (one file, dynamic batch), arguments.json (`trainer`,
    `config` and `model_arguments`, which rebuild the module), schema.json, metrics.json, manifest.json with digests.

    `example` are inputs with a batch of at least 2. The graph is checked against `model` (in eval mode, float32, CPU) at batches
    1, 3 and 64. Raises ExportFailed, which names the largest difference. `folder` None does nothing. Call it on rank 0, with an unwrapped model.
    """
    raise NotImplementedError


class ExportFailed(Exception):
    """The graph is not what was trained."""
