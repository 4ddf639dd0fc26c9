"""The export folder of a training, read without torch and without the trainer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from katuna.errors import InputRefused
from katuna.runtime import sealed

KIND = "katuna-export/1"
WEIGHTS, GRAPH, ARGUMENTS, SCHEMA, METRICS = (
    *("model.safetensors", "model.onnx", "arguments.json", "schema.json", "metrics.json"),
)


@dataclass(frozen=True)
class Field:
    """One input or output tensor, or one column of a table.

    `dtype` as ONNX Runtime names it without "tensor()": float, int64, string. `shape` without the batch, () for a column; -1 is a
    length that may be less than the example's. `categories` map a column's texts to 0.. in their order (-1 and unknown: see
    `missing`); `missing` is what stands for a missing value: "nan", a category's text, or "" where none may be missing.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    categories: tuple[str, ...] = ()
    missing: str = ""
    doc: str = ""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Field:
        return cls(**{**data, "shape": tuple(data["shape"]), "categories": tuple(data["categories"])})


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

    def as_json(self) -> dict[str, Any]:
        fields = {name: [asdict(each) for each in getattr(self, name)] for name in ("inputs", "outputs", "columns")}
        return {"task": self.task, **fields, "labels": list(self.labels), "extra": dict(self.extra)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Schema:
        """The inverse of `as_json`."""
        fields = {name: tuple(map(Field.from_json, data[name])) for name in ("inputs", "outputs", "columns")}
        return cls(task=data["task"], **fields, labels=tuple(data["labels"]), extra=dict(data["extra"]))


@dataclass(frozen=True)
class Exported:
    """A model as it was exported. `digest` names its contents: another byte anywhere is another digest."""

    folder: Path
    digest: str
    trainer: str
    config: Mapping[str, Any]
    model_arguments: Mapping[str, Any]
    schema: Schema
    metrics: Mapping[str, float]

    @property
    def weights(self) -> Path:
        """safetensors; `safetensors.torch.load_model` puts tied weights where they belong."""
        return self.folder / WEIGHTS

    @property
    def graph(self) -> Path:
        return self.folder / GRAPH


def load_export(folder: Path) -> Exported:
    """Raises InputRefused, naming everything that is wrong, unless every byte is as it was exported."""
    wrong = sealed.problems(folder, KIND, (WEIGHTS, ARGUMENTS, SCHEMA, METRICS))
    if wrong:
        raise InputRefused(f"{folder} is no whole export: {'; '.join(wrong)}; export the model again, or copy the folder again")
    try:
        read = {name: json.loads((folder / name).read_text()) for name in (sealed.MANIFEST, ARGUMENTS, SCHEMA, METRICS)}
        arguments = read[ARGUMENTS]
        return Exported(
            folder,
            read[sealed.MANIFEST]["digest"],
            arguments["trainer"],
            arguments["config"],
            arguments["model_arguments"],
            Schema.from_json(read[SCHEMA]),
            read[METRICS],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        # Digests say that it is as it was written, not who wrote it.
        raise InputRefused(
            f"{folder} is not as katuna exports a model ({type(error).__name__}: {error}); export it again"
        ) from error
