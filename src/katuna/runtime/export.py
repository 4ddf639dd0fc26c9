"""What a training leaves behind for evaluation, registry and serving, which import no trainer: weights, graph, schema, metrics."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from katuna.runtime import sealed
from katuna.runtime.exported import ARGUMENTS, GRAPH, KIND, METRICS, SCHEMA, WEIGHTS, Exported, Field, Schema, load_export

__all__ = ["ExportFailed", "Exported", "Field", "Schema", "export", "load_export"]

BATCHES = (1, 3, 64)
TOLERANCE = 1e-4
"""Of the graph's numbers: largest difference from torch's, as a share of the largest number of the output, or of 1."""

MOST_BYTES = 2**31 - 2**20
"""Of weights in float32: what protobuf can hold, less what the graph around them takes."""

_TYPES = {torch.float32: "float", torch.int64: "int64", torch.int32: "int32", torch.bool: "bool", torch.float64: "double"}


class ExportFailed(SystemExit):
    """The graph is not what was trained, or could not be made or written: ends the program with exit code 1 and one line."""

    def __init__(self, why: object) -> None:
        super().__init__(
            f"error: the model could not be exported: {' '.join(str(why).split())}; its weights are in the checkpoints"
        )


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

    `example` are inputs with a batch of at least 2, one for each of the schema's inputs. The graph is checked against `model` (in
    eval mode, float32, CPU) at batches 1, 3 and 64, within TOLERANCE. `model` itself stays as it is. Raises ExportFailed, which
    names the largest difference and ends the program where nobody catches it, and ValueError for a schema that does not describe the
    model, or values that JSON cannot hold. `folder` None does nothing. Call it on rank 0, with an unwrapped model.
    """
    if folder is None:
        return
    trained = copy.deepcopy(model).to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    inputs = tuple(tensor.detach().to("cpu") for tensor in example)
    documents = {
        ARGUMENTS: {"trainer": trainer, "config": _plain(config), "model_arguments": dict(model_arguments)},
        SCHEMA: schema.as_json(),
        METRICS: dict(metrics),
    }
    texts = {name: json.dumps(document, indent=1, allow_nan=False) + "\n" for name, document in documents.items()}
    sealed.clean(folder.parent, "export")
    try:
        with sealed.writing(folder, KIND) as place:
            safetensors.torch.save_model(trained, str(place / WEIGHTS))
            trained.float()
            _check_schema(schema, trained, inputs)
            (place / GRAPH).write_bytes(graph_of(trained, inputs, schema))
            _check_graph(place / GRAPH, trained, inputs, schema)
            for name, text in texts.items():
                (place / name).write_text(text)
    except (OSError, SafetensorError) as error:
        raise ExportFailed(
            f"{folder} cannot be written: {getattr(error, 'strerror', None) or error}; make room and start again"
        ) from error


def graph_of(model: nn.Module, inputs: tuple[Tensor, ...], schema: Schema) -> bytes:
    """The model as one ONNX file. Raises ExportFailed."""
    batch = torch.export.Dim("batch")
    if (weights := sum(4 * each.numel() for each in {*model.parameters(), *model.buffers()})) > MOST_BYTES:
        raise ExportFailed(f"its weights take {weights / 2**30:.1f} GiB, and one ONNX file holds 2; train with --no-export")
    dims = tuple(
        {0: batch, **{axis: _length(field, axis, tensor) for axis, size in enumerate(field.shape, 1) if size == -1}}
        for field, tensor in zip(schema.inputs, inputs, strict=True)
    )
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                model,
                inputs,
                input_names=[field.name for field in schema.inputs],
                output_names=[field.name for field in schema.outputs],
                dynamic_shapes=_by_parameter(model, dims),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
            assert program is not None
            proto = program.model_proto
    except torch.onnx.errors.OnnxExporterError as error:
        cause = error.__cause__ or error
        raise ExportFailed(f"torch.onnx cannot make a graph of {type(model).__name__}: {cause}") from error
    for part in (proto.graph, *proto.functions):
        for node in (part, *part.node):
            del node.metadata_props[:]  # stack traces: paths of the machine that it was made on
            node.doc_string = ""
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _length(field: Field, axis: int, tensor: Tensor) -> Any:
    return torch.export.Dim(f"{field.name}_{axis}", min=1, max=tensor.shape[axis])


def _by_parameter(model: nn.Module, dims: tuple[dict[int, Any], ...]) -> Any:
    """`forward(*columns)` takes its inputs as one parameter, for which torch wants one entry."""
    import inspect

    kinds = [parameter.kind for parameter in inspect.signature(model.forward).parameters.values()]
    named = sum(kind is not inspect.Parameter.VAR_POSITIONAL for kind in kinds)
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return (*dims[:named], dims[named:])
    return dims


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells of its passes, and warns of its own use of what it deprecates."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(torch|onnxscript|onnx_ir|copyreg)\b")
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|onnxscript|onnx_ir|copyreg)\b")
            warnings.filterwarnings("ignore", "# The axis name: batch will not be used", UserWarning)  # every input has it
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _check_graph(path: Path, model: nn.Module, inputs: tuple[Tensor, ...], schema: Schema) -> None:
    """Raises ExportFailed unless ONNX Runtime computes what torch does, at each of BATCHES, and at a shorter length where there is one."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    shorter = tuple(_shortened(tensor, field) for tensor, field in zip(inputs, schema.inputs, strict=True))
    cases = [tuple(_rows(tensor, batch) for tensor in inputs) for batch in BATCHES]
    cases += [shorter] if any(-1 in field.shape for field in schema.inputs) else []
    for case in cases:
        feed = {field.name: tensor.numpy() for field, tensor in zip(schema.inputs, case, strict=True)}
        try:
            got = session.run([field.name for field in schema.outputs], feed)
        except Exception as error:  # ONNX Runtime's have no class in common
            raise ExportFailed(f"{GRAPH} does not run at batch {len(case[0])}: {error}") from error
        for field, expected, actual in zip(schema.outputs, _outputs(model, case), got, strict=True):
            difference = _difference(expected, torch.from_numpy(actual))
            if not difference <= TOLERANCE:
                raise ExportFailed(
                    f"{GRAPH}: {field.name} at batch {len(expected)} differs from torch's by {difference:.3g} of its largest number; "
                    f"at most {TOLERANCE:g} may be"
                )


def _rows(tensor: Tensor, count: int) -> Tensor:
    """The example's rows, over and over."""
    return tensor[torch.arange(count) % len(tensor)]


def _shortened(tensor: Tensor, field: Field) -> Tensor:
    for axis, size in enumerate(field.shape, 1):
        if size == -1:
            tensor = tensor.narrow(axis, 0, max(1, tensor.shape[axis] // 2))
    return tensor.contiguous()


def _outputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        found = model(*inputs)
    return (found,) if isinstance(found, Tensor) else tuple(found)


def _difference(expected: Tensor, actual: Tensor) -> float:
    """The largest one, as a share of the largest number or of 1; infinite where shapes, types, integers or what is no number differ."""
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return float("inf")
    if not expected.is_floating_point():
        return 0.0 if torch.equal(expected, actual) else float("inf")
    one, other = expected.double(), actual.double()
    usual = one.isfinite()
    if not torch.equal(one.nan_to_num()[~usual], other.nan_to_num()[~usual]) or not torch.equal(one.isnan(), other.isnan()):
        return float("inf")
    if not usual.any():
        return 0.0
    largest = max(1.0, float(one[usual].abs().max()))
    return float((one - other)[usual].abs().max()) / largest


def _check_schema(schema: Schema, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Raises ValueError, with all that is wrong, where the schema tells of other tensors than the model takes and gives."""
    wrong = []
    for fields, tensors in ((schema.inputs, inputs), (schema.outputs, _outputs(model, inputs))):
        if len(fields) != len(tensors):
            wrong.append(f"{[field.name for field in fields]} are {len(fields)} tensors and not {len(tensors)}")
            continue
        wrong += [text for field, tensor in zip(fields, tensors, strict=True) if (text := _misdescribed(field, tensor))]
    if any(len(tensor) < 2 for tensor in inputs):
        wrong.append("the example needs a batch of at least 2")
    if wrong:
        raise ValueError(f"schema: {'; '.join(wrong)}")


def _misdescribed(field: Field, tensor: Tensor) -> str:
    dtype = _TYPES.get(tensor.dtype, str(tensor.dtype))
    same = len(field.shape) == tensor.dim() - 1 and all(
        size in (-1, there) for size, there in zip(field.shape, tensor.shape[1:], strict=True)
    )
    if field.dtype == dtype and same:
        return ""
    return f"{field.name} is {dtype} {tuple(tensor.shape[1:])} a row, not {field.dtype} {field.shape}"


def _plain(config: Any) -> dict[str, Any]:
    return dataclasses.asdict(config) if dataclasses.is_dataclass(config) and not isinstance(config, type) else dict(config)
