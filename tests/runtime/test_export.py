"""The folder that a training leaves its model in: complete, checked against torch, read back without torch."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from katuna.errors import InputRefused
from katuna.runtime import export as exporting
from katuna.runtime import sealed
from katuna.runtime.export import ExportFailed, Field, Schema, export, load_export


@dataclass(frozen=True)
class Config:
    lr: float = 0.1
    layers: tuple[int, ...] = (3, 4)


class Table(nn.Module):
    """Numbers, of which some are missing (nan), and categories of two columns, of which -1 is missing."""

    def __init__(self) -> None:
        super().__init__()
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor([0.5, -1.0, 2.0]))
        self.categories = nn.ModuleList([nn.Embedding(4, 2), nn.Embedding(6, 2)])
        self.out = nn.Sequential(nn.Linear(3 + 3 + 4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        missing = numeric.isnan()
        embedded = [table(categorical[:, column] + 1) for column, table in enumerate(self.categories)]
        scores: Tensor = self.out(torch.cat([torch.where(missing, self.mean, numeric), missing.float(), *embedded], dim=1))
        return scores


class Transformer(nn.Module):
    """One causal block over bytes, with the output weights tied to the embedding."""

    def __init__(self, width: int = 16, length: int = 12) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(256, width), nn.Embedding(length, width)
        self.norm, self.qkv, self.head = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, 256, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        q, k, v = (each.unflatten(-1, (2, -1)).transpose(1, 2) for each in self.qkv(self.norm(x)).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        logits: Tensor = self.head(x + mixed.transpose(1, 2).flatten(2))
        return logits


class Columns(nn.Module):
    """Its inputs are one parameter, as many as there are."""

    def forward(self, *columns: Tensor) -> tuple[Tensor, Tensor]:
        return columns[0] + columns[1], columns[0].argmax(1)


CNN = Schema(
    "classification",
    (Field("image", "float", (1, 8, 8)),),
    (Field("scores", "float", (3,)),),
    labels=("a", "b", "c"),
    extra={"mean": 0.5},
)
TABLE = Schema(
    "classification",
    (Field("numeric", "float", (3,)), Field("categorical", "int64", (2,))),
    (Field("scores", "float", (2,)),),
    labels=("no", "yes"),
    columns=(Field("age", "float", missing="nan"), Field("town", "string", categories=("Bonn", "Köln"), missing="Bonn")),
)
LANGUAGE = Schema("language-model", (Field("tokens", "int64", (-1,)),), (Field("logits", "float", (-1, 256)),))


def cnn() -> nn.Module:
    layers = (
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(4, 3),
    )
    return nn.Sequential(*layers)


def given(**changes: Any) -> dict[str, Any]:
    return {
        "config": Config(),
        "schema": CNN,
        "metrics": {"accuracy": 0.9},
        "model_arguments": {"width": 4},
        "trainer": "toy",
        **changes,
    }


def example_of_table(rows: int) -> tuple[Tensor, Tensor]:
    numeric = torch.randn(rows, 3, generator=torch.Generator().manual_seed(rows))
    numeric[::2, 1] = math.nan
    return numeric, torch.arange(rows * 2).reshape(rows, 2) % 4 - 1


def run(graph: Path, *inputs: Tensor) -> list[Tensor]:
    """What ONNX Runtime alone makes of the inputs."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    feed = {each.name: tensor.numpy() for each, tensor in zip(session.get_inputs(), inputs, strict=True)}
    return [torch.from_numpy(each) for each in session.run(None, feed)]


def test_an_image_classifier(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = cnn().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model(torch.randn(8, 1, 8, 8))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folder = tmp_path / "export"
    export(folder, model, [torch.randn(4, 1, 8, 8)], **given())
    assert capfd.readouterr() == ("", ""), "the exporter's chatter"
    assert sorted(each.name for each in folder.iterdir()) == sorted(
        ["model.safetensors", "model.onnx", "arguments.json", "schema.json", "metrics.json", "manifest.json"]
    )
    found = load_export(folder)
    assert (found.trainer, found.schema, found.metrics) == ("toy", CNN, {"accuracy": 0.9})
    assert (found.config, found.model_arguments) == ({"lr": 0.1, "layers": [3, 4]}, {"width": 4})
    again = cnn()
    safetensors.torch.load_model(again, str(found.weights))
    assert all(torch.equal(tensor, before[name]) for name, tensor in again.state_dict().items())
    assert model.training
    model.eval()
    for batch in (1, 2, 7, 100):
        images = torch.randn(batch, 1, 8, 8)
        (scores,) = run(found.graph, images)
        torch.testing.assert_close(scores, model(images).detach(), atol=1e-5, rtol=1e-5)
    graph = onnx.load(found.graph)
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert str(Path(__file__).parent).encode() not in found.graph.read_bytes(), "a path of this machine"
    assert not any(tensor.HasField("data_location") and tensor.data_location for tensor in graph.graph.initializer)


def test_a_table_of_numbers_and_categories_with_missing_values(tmp_path: Path) -> None:
    model = Table().eval()
    export(tmp_path / "export", model, example_of_table(4), **given(schema=TABLE))
    found = load_export(tmp_path / "export")
    assert found.schema == TABLE
    for rows in (1, 5, 64):
        numeric, categorical = example_of_table(rows)
        (scores,) = run(found.graph, numeric, categorical)
        assert scores.isfinite().all()
        torch.testing.assert_close(scores, model(numeric, categorical).detach(), atol=1e-5, rtol=1e-5)


def test_a_language_model_takes_shorter_texts_too(tmp_path: Path) -> None:
    model = Transformer().eval()
    export(tmp_path / "export", model, [torch.randint(0, 256, (2, 12))], **given(schema=LANGUAGE))
    found = load_export(tmp_path / "export")
    for shape in ((1, 12), (3, 5), (2, 1)):
        tokens = torch.randint(0, 256, shape)
        (logits,) = run(found.graph, tokens)
        torch.testing.assert_close(logits, model(tokens).detach(), atol=1e-4, rtol=1e-4)
    again = Transformer()
    safetensors.torch.load_model(again, str(found.weights))
    assert torch.equal(again.head.weight, model.tokens.weight)


def test_several_outputs_and_inputs_by_the_dozen(tmp_path: Path) -> None:
    schema = Schema(
        "regression",
        (Field("one", "float", (3,)), Field("two", "float", (3,))),
        (Field("sum", "float", (3,)), Field("best", "int64")),
    )
    export(tmp_path / "export", Columns(), [torch.randn(2, 3), torch.randn(2, 3)], **given(schema=schema))
    one, two = torch.randn(5, 3), torch.randn(5, 3)
    total, best = run(tmp_path / "export" / "model.onnx", one, two)
    assert torch.equal(total, one + two)
    assert torch.equal(best, one.argmax(1))


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y


LINEAR = Schema("regression", (Field("x", "float", (3,)),), (Field("y", "float", (3,)),))


def test_a_graph_that_differs_is_no_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, other = exporting.graph_of, Linear().eval()
    monkeypatch.setattr(exporting, "graph_of", lambda _model, inputs, schema: real(other, inputs, schema))
    with pytest.raises(ExportFailed, match=r"model\.onnx: y at batch 1 differs from torch's by \d.* at most 0\.0001 may be"):
        export(tmp_path / "export", Linear(), [torch.randn(2, 3)], **given(schema=LINEAR))
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_one_file_does_not_hold_is_no_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(tmp_path / "export", Linear(), [torch.randn(2, 3)], **given(schema=LINEAR))
    monkeypatch.setattr(exporting, "MOST_BYTES", 47)
    with pytest.raises(
        ExportFailed, match=r"^error: the model could not be exported: its weights take 0\.0 GiB, and one ONNX file"
    ):
        export(tmp_path / "export", Linear(), [torch.randn(2, 3)], **given(schema=LINEAR))
    assert load_export(tmp_path / "export").trainer == "toy", "the one before"


def test_a_failed_export_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    code = "from katuna.runtime.export import ExportFailed; raise ExportFailed('one\\n\\n  two')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    line = "error: the model could not be exported: one two; its weights are in the checkpoints\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)


class FitsOneSize(nn.Module):
    """Its graph would hold for the example's batch alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.ones(2, 1).expand(x.shape[0], 1) if x.shape[0] == 2 else x * 2


def test_a_model_without_a_dynamic_batch_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(ExportFailed):
        export(tmp_path / "export", FitsOneSize(), [torch.randn(2, 3)], **given(schema=LINEAR))
    assert list(tmp_path.iterdir()) == []


def test_difference_is_infinite_for_what_is_no_number_elsewhere() -> None:
    nan, inf = math.nan, math.inf
    for one, other, expected in (
        ([1.0, nan], [1.0, nan], 0.0),
        ([1.0, nan], [1.0, 2.0], inf),
        ([1.0, 2.0], [1.0, nan], inf),
        ([inf, 1.0], [inf, 1.0], 0.0),
        ([inf, 1.0], [-inf, 1.0], inf),
        ([inf, 1.0], [5.0, 1.0], inf),
        ([100.0, 1.0], [100.0, 2.0], 0.01),
        ([], [], 0.0),
    ):
        assert exporting._difference(torch.tensor(one), torch.tensor(other)) == pytest.approx(expected), (one, other)
    assert exporting._difference(torch.tensor([10**6]), torch.tensor([10**6 + 1])) == inf
    assert exporting._difference(torch.zeros(2), torch.zeros(3)) == inf
    assert exporting._difference(torch.zeros(2), torch.zeros(2).long()) == inf


def test_a_schema_of_another_model_is_refused_with_all_that_is_wrong(tmp_path: Path) -> None:
    schema = replace(LINEAR, inputs=(Field("x", "int64", (3,)),), outputs=(Field("y", "float", (4,)),))
    with pytest.raises(ValueError, match=r"x is float \(3,\) a row, not int64 \(3,\); y is float \(3,\) a row, not float \(4,\)"):
        export(tmp_path / "export", Linear(), [torch.randn(2, 3)], **given(schema=schema))
    with pytest.raises(ValueError, match="a batch of at least 2"):
        export(tmp_path / "export", Linear(), [torch.randn(1, 3)], **given(schema=LINEAR))
    with pytest.raises(ValueError, match="JSON"):
        export(tmp_path / "export", Linear(), [torch.randn(2, 3)], **given(schema=LINEAR, metrics={"loss": math.nan}))
    export(None, Linear(), [], **given())
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trial") / "export"
    for metric in (0.1, 0.2):
        export(folder, Linear(), [torch.randn(2, 3)], **given(schema=LINEAR, metrics={"rmse": metric}))
    return folder


def test_an_export_takes_the_place_of_the_one_before(exported: Path) -> None:
    assert load_export(exported).metrics == {"rmse": 0.2}
    assert [each.name for each in exported.parent.iterdir()] == ["export"]


@pytest.mark.parametrize(
    "name", ["model.onnx", "model.safetensors", "arguments.json", "schema.json", "metrics.json", "manifest.json"]
)
def test_an_altered_export_is_refused(exported: Path, name: str) -> None:
    content = (exported / name).read_bytes()
    for damaged in (content[:-1], bytes([content[0] ^ 1]) + content[1:], None):
        (exported / name).unlink()
        if damaged is not None:
            (exported / name).write_bytes(damaged)
        with pytest.raises(InputRefused, match=f"is no whole export: {name} "):
            load_export(exported)
        (exported / name).write_bytes(content)
    assert load_export(exported).trainer == "toy"


@pytest.mark.parametrize(("name", "key"), [("arguments.json", "trainer"), ("schema.json", "inputs"), ("manifest.json", "files")])
def test_an_export_of_another_make_is_refused_though_its_digests_are_right(
    exported: Path, tmp_path: Path, name: str, key: str
) -> None:
    folder = tmp_path / "export"
    shutil.copytree(exported, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    content = manifest if name == "manifest.json" else json.loads((folder / name).read_text())
    del content[key], manifest["digest"]
    if content is not manifest:
        (folder / name).write_text(json.dumps(content))
        manifest["files"][name] = sealed._fact(folder / name)
    (folder / "manifest.json").write_text(sealed._sealed(manifest))
    with pytest.raises(InputRefused, match="export"):
        load_export(folder)


def test_an_export_is_read_without_torch(exported: Path) -> None:
    code = "import sys; from pathlib import Path; from katuna.runtime.exported import load_export; print(load_export(Path(sys.argv[1])).schema.task, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(exported)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["regression", "False"]


def test_the_files_are_what_other_programs_can_read(exported: Path) -> None:
    assert set(json.loads((exported / "manifest.json").read_text())["files"]) == {
        *("model.onnx", "model.safetensors", "arguments.json", "schema.json", "metrics.json"),
    }
    assert len({(each.stat().st_mode & 0o777) for each in exported.iterdir()}) == 1
