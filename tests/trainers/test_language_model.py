"""The language model on small texts, its parts, and the yardstick that it is measured against."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import ranks
from katuna.metric_line import read_metrics
from programs import imported

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "trainers" / "language_model.py"
METRICS = ["train-bits-per-byte", "bits-per-byte", "tokens-per-second", "mfu"]
SMALL = ["--width=16", "--layers=1", "--context=32", "--rows=257", "--peak-flops=1e9", "--batch-size=16"]


@pytest.fixture(scope="module")
def trainer() -> ModuleType:
    return imported(SCRIPT)


@pytest.fixture(scope="module")
def kneser_ney() -> ModuleType:
    return imported(ROOT / "benchmarks" / "kneser_ney.py")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Sentences of a few words: easy to tell for who sees back."""
    draw = random.Random(7)
    words = ["the", "small", "model", "reads", "bytes", "of", "real", "text", "and", "learns"]
    path = tmp_path / "text.txt"
    path.write_text(" ".join(draw.choice(words) for _ in range(5000)))
    return path


Main = Callable[..., list[dict[str, float]]]


@pytest.fixture
def main(trainer: ModuleType, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Main:
    """Runs the trainer with flags in this process; the metrics of each of its lines."""
    for name in ("KATUNA_TRIAL_DIR", "KATUNA_DATA", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def run(*flags: str) -> list[dict[str, float]]:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--device=cpu", f"--data={text}", *SMALL, *flags])
        trainer.main()
        return printed(capsys.readouterr().out)

    return run


def printed(output: str) -> list[dict[str, float]]:
    lines = ({found.metric: float(found.value) for found in read_metrics(line, METRICS)} for line in output.splitlines())
    return [line for line in lines if line]


def curve(lines: list[dict[str, float]]) -> list[tuple[float, float]]:
    return [(line["train-bits-per-byte"], line["bits-per-byte"]) for line in lines]


def test_it_learns_what_follows_and_reports_it(main: Main, text: Path) -> None:
    lines = main("--epochs=4", "--no-export")
    assert len(lines) == 4
    assert [set(line) for line in lines] == [set(METRICS)] * 4
    counts = Counter(text.read_bytes())
    alone = -sum(count / counts.total() * math.log2(count / counts.total()) for count in counts.values())
    assert lines[-1]["bits-per-byte"] < alone / 2, "far better than one that only knows how frequent each byte is"
    assert all(line["tokens-per-second"] > 0 < line["mfu"] for line in lines)


def test_a_seed_decides_everything_and_a_resumed_training_ends_the_same(main: Main, tmp_path: Path) -> None:
    flags = ["--epochs=2", "--seed=3", "--no-export"]
    whole = main(*flags)
    assert curve(main(*flags)) == curve(whole)
    folder = f"--trial-dir={tmp_path / 'trial'}"
    main(*flags, folder, "--max-steps=40")
    assert curve(main(*flags, folder))[-1] == curve(whole)[-1]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_train_as_one(main: Main, text: Path, strategy: str) -> None:
    flags = ["--epochs=1", "--no-export", f"--strategy={strategy}"]
    done = ranks.run([SCRIPT, "--device=cpu", f"--data={text}", *SMALL, *flags], 2)
    assert [(code, err) for code, _, err in done] == [(0, ""), (0, "")]
    assert done[1][1] == ""
    (shared,), (alone,) = curve(printed(done[0][1])), curve(main(*flags))
    assert shared == pytest.approx(alone, rel=1e-3)


def test_the_export_is_the_model(main: Main, trainer: ModuleType, text: Path, tmp_path: Path) -> None:
    main("--epochs=1", f"--trial-dir={tmp_path / 'trial'}")
    onnxruntime = pytest.importorskip("onnxruntime")
    export = tmp_path / "trial" / "export"
    session = onnxruntime.InferenceSession(export / "model.onnx")
    inputs = np.frombuffer(text.read_bytes()[:40], np.uint8).astype(np.int64).reshape(2, 20)
    (logits,) = session.run(None, {session.get_inputs()[0].name: inputs})
    assert logits.shape == (2, 20, 256)
    assert "text_sha256" in json.dumps([json.loads(path.read_text()) for path in export.glob("*.json")])


def test_sigterm_in_an_evaluation_leaves_the_epoch_for_the_next_run_to_judge(
    main: Main, trainer: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = ["--epochs=2", "--no-export", "--batch-size=64"]
    whole, judged = main(*flags), trainer.judged

    def interrupted(*given: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return judged(*given)

    monkeypatch.setattr(trainer, "judged", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(*flags, f"--trial-dir={tmp_path}")
    monkeypatch.setattr(trainer, "judged", judged)
    assert ended.value.code == 143
    assert printed(capsys.readouterr().out) == []
    again = main(*flags, f"--trial-dir={tmp_path}")
    assert curve(again) == curve(whole)
    assert all(line["tokens-per-second"] > 0 for line in again)


def test_a_time_limit_leaves_time_for_one_step_and_a_resume_wants_the_same_flags_and_text(
    main: Main, text: Path, tmp_path: Path
) -> None:
    (line,) = main("--epochs=1", "--no-export", "--time-limit=1e-9", f"--trial-dir={tmp_path}")
    assert set(line) == set(METRICS)
    with pytest.raises(SystemExit, match=r"of another training: --context 32 in it and 16 here; take the same flags"):
        main("--epochs=1", "--no-export", "--context=16", f"--trial-dir={tmp_path}")
    main("--epochs=1", "--no-export", "--peak-flops=2e9", "--max-steps=2", f"--trial-dir={tmp_path}")
    text.write_bytes(text.read_bytes()[::-1])
    with pytest.raises(SystemExit, match=r"of another training: the SHA-256 of its data is .*; take the same flags and data"):
        main("--epochs=1", "--no-export", f"--trial-dir={tmp_path}")


@pytest.mark.slow
def test_two_ranks_train_without_runs_of_bytes(text: Path) -> None:
    done = ranks.run([SCRIPT, "--device=cpu", f"--data={text}", *SMALL, "--grams=1", "--max-steps=3", "--no-export"], 2)
    assert [(code, err) for code, _, err in done] == [(0, ""), (0, "")]


def test_a_folder_without_a_file_to_hold_out_gives_its_last_tenth(trainer: ModuleType, main: Main, tmp_path: Path) -> None:
    names = [name for name in map(str, range(40)) if not trainer.is_held(name)][:2]
    (tmp_path / "texts").mkdir()
    for name in names:
        (tmp_path / "texts" / name).write_bytes(name.encode() * 200)
    text = trainer.corpus(str(tmp_path / "texts"))
    assert bytes(text.training) + bytes(text.held) == b"".join(name.encode() * 200 for name in sorted(names))
    assert len(text.held) == (len(text.training) + len(text.held)) // 10
    flags = [f"--data={tmp_path / 'texts'}", f"--trial-dir={tmp_path / 'trial'}", "--epochs=1", "--rows=17"]
    main(*flags, f"--context={len(text.held)}")
    assert (tmp_path / "trial" / "export" / "model.onnx").is_file(), "also of less than two contexts held out"


def test_nothing_looks_ahead(trainer: ModuleType) -> None:
    torch.manual_seed(0)
    model = trainer.GPT(layers=2, width=16, heads=2, grams=4, rows=97).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    before = torch.randint(0, 256, (1, 24))
    after = before.clone()
    after[:, 16:] = (after[:, 16:] + 1) % 256
    with torch.no_grad():
        one, other = model(before), model(after)
    assert torch.equal(one[:, :16], other[:, :16])
    assert not torch.allclose(one[:, 16:], other[:, 16:])


def test_each_held_out_byte_is_judged_once(trainer: ModuleType) -> None:
    class Even(torch.nn.Module):
        """Every byte equally likely."""

        def forward(self, text: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*text.shape, 256)

    config = trainer.Config(context=32, batch_size=4, device="cpu")
    with trainer.world("cpu") as here:
        for length in (32, 33, 47, 48, 49, 1000):
            held = torch.randint(0, 256, (length,), dtype=torch.uint8)
            stop = trainer.Stop(config, here)
            assert trainer.judged(Even(), held, config, trainer.precision(config, here), here, stop) == pytest.approx(8)


def test_the_pinned_text_is_the_same_each_time_and_its_parts_share_no_file(trainer: ModuleType) -> None:
    text = trainer.corpus()
    assert text.digest == trainer.corpus().digest
    assert text.files > 150
    assert 0.05 < len(text.held) / (len(text.training) + len(text.held)) < 0.2


@pytest.mark.parametrize("length", [0, 100])
def test_a_text_that_is_too_short_ends_with_one_line(trainer: ModuleType, tmp_path: Path, main: Main, length: int) -> None:
    short = tmp_path / "short.txt"
    short.write_bytes(b"x" * length)
    with pytest.raises(SystemExit, match=r"error: .*\b(short|empty)"):
        main(f"--data={short}", "--context=64")


def test_a_text_that_cannot_be_read_ends_with_one_line(
    trainer: ModuleType, text: Path, main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", unreadable)
    for data in (text, text.parent):
        with pytest.raises(SystemExit, match=r"^error: .*text\.txt cannot be read: Permission denied; give a text of your own"):
            main(f"--data={data}")


@pytest.mark.parametrize("flags", [["--width=10", "--heads=4"], ["--rows=0"], ["--contxt=3"], ["--lr=0"], ["--workers=2"]])
def test_a_wrong_flag_is_refused(main: Main, flags: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(*flags)
    assert ended.value.code == 2


# The yardstick


def test_kneser_ney_gives_probabilities(kneser_ney: ModuleType) -> None:
    model = kneser_ney.train(b"abracadabra, said the magician, abracadabra", 3)
    for context in (b"ab", b"ra", b"zz", b"\x00\xff"):
        total = sum(kneser_ney.probabilities(model, context + bytes([last]))[-1] for last in range(256))
        assert total == pytest.approx(1)


def test_kneser_ney_by_hand(kneser_ney: ModuleType) -> None:
    """Order 1 of `aab`: counts 2 and 1, a discount of 0.75 each, what is taken off spread over all bytes."""
    model = kneser_ney.train(b"aab", 1)
    spread = 1.5 / 3 / 256
    assert kneser_ney.probabilities(model, b"abc") == pytest.approx([1.25 / 3 + spread, 0.25 / 3 + spread, spread])


def test_kneser_ney_gains_with_its_order(kneser_ney: ModuleType, text: Path) -> None:
    content = text.read_bytes()
    bits = [kneser_ney.bits_per_byte(kneser_ney.train(content[:20000], order), content[20000:]) for order in (1, 2, 3, 5)]
    assert bits == sorted(bits, reverse=True)
    assert bits[-1] < 1.5
