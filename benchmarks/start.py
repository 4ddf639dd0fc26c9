"""From the start of a trial to its first metric line, warm beside cold: a script that imports PyTorch, takes one step of AdamW and
prints one line. `python benchmarks/start.py [n] [--quick] [--json]`.

    cold            an interpreter of its own
    warm            forked before it was needed: the server keeps two processes ready
    warm, a third   one start more at once than are ready: it waits for its forks
    trainer, ...    the same step in a script that imports what trainers/image_classifier.py does, katuna's own modules among it
    ..., own files  the same with a layer over the working folder, its own /tmp and /dev/shm, and kept code, as in a search
"""

from __future__ import annotations

import ast
import statistics
import tempfile
import time
from pathlib import Path

from sidebyside import Options, load, machine, options, ratio, tell
from trials import Running

from katuna.launch.layers import Step
from katuna.launch.process import ColdStarter
from katuna.launch.warm.server import READY
from katuna.launch.warm.starter import WarmStarter

PAUSE_S = 1.0
"""Between warm starts, in which the server forks again. A slot of a search comes free less often."""

PROGRAM = """\
import torch
network = torch.nn.Linear(4, 1)
optimizer = torch.optim.AdamW(network.parameters())
loss = network(torch.ones(2, 4)).square().mean()
loss.backward()
optimizer.step()
print(f"loss={loss.item():.6f}")
"""


def like_a_trainer() -> str:
    """PROGRAM behind the imports of a real trainer, as they stand at its head."""
    source = (Path(__file__).parents[1] / "trainers" / "image_classifier.py").read_text()
    imports = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert any("katuna.runtime" in ast.unparse(node) for node in imports)
    return "\n".join(map(ast.unparse, imports)) + "\n" + PROGRAM


def view(folder: Path, trial: Path) -> tuple[Step, ...]:
    """As files.py makes it for a trial of a search in `folder`; making the folders is part of the cost."""
    code = folder / "code"
    upper, inner, tmp, shm = (trial / name for name in ("work", "inner", "tmp", "shm"))
    for each in (upper, inner, tmp, shm):
        each.mkdir()
    layer = ("layer", *map(str, (folder / "here", upper, inner, code, folder / "here")))
    return ("own", "/tmp", str(tmp)), ("own", "/dev/shm", str(shm)), ("keep", str(folder)), layer  # noqa: S108


def measure(folder: Path, n: int) -> tuple[dict[str, list[float]], float]:
    """Seconds by kind, and those of the first warm start of all, which waits for the server's imports."""
    place = iter(range(1_000_000))

    def begin(starter: ColdStarter | WarmStarter, name: str, *, own: bool = False) -> Running:
        trial = folder / str(next(place))
        return Running(starter, trial, (str(folder / name),), {}, (lambda: view(folder, trial)) if own else tuple)

    def first_line(*trials: Running) -> float:
        """The last one's; each has then ended."""
        seconds = max(trial.first_line() for trial in trials)
        for trial in trials:
            trial.end()
        return seconds

    for name in ("code", "here"):
        (folder / name).mkdir()
    (folder / "program.py").write_text(PROGRAM)
    (folder / "trainer.py").write_text(like_a_trainer())
    taken: dict[str, list[float]] = {}
    cold, warm, trainers = ColdStarter(), WarmStarter(), WarmStarter()
    first = first_line(begin(warm, "program.py"))
    first_line(begin(trainers, "trainer.py"))
    for turn in range(n + 1):
        row = {}
        for kind, starter, script, count in (
            ("cold", cold, "program.py", 1),
            ("warm", warm, "program.py", 1),
            ("warm, a third", warm, "program.py", READY + 1),
            ("trainer, cold", cold, "trainer.py", 1),
            ("trainer, warm", trainers, "trainer.py", 1),
            ("cold, own files", cold, "program.py", 1),
            ("warm, own files", warm, "program.py", 1),
        ):
            time.sleep(PAUSE_S)
            trials = [begin(starter, script, own=kind.endswith("own files")) for _ in range(count)]
            row[kind] = first_line(*trials)
            assert all(trial.process.how["start"] == ("cold" if starter is cold else "warm") for trial in trials), kind
        if turn:
            for name, seconds in row.items():
                taken.setdefault(name, []).append(seconds)
    warm.close()
    trainers.close()
    return taken, first


def main(given: Options) -> None:
    n = given.n or (3 if given.quick else 15)
    with tempfile.TemporaryDirectory() as folder:
        taken, first = measure(Path(folder), n)
    beside = {"warm": "cold", "warm, a third": "cold", "trainer, warm": "trainer, cold", "warm, own files": "cold, own files"}
    to_cold = {name: ratio(taken, name, base) for name, base in beside.items()}
    lines = [f"{name}: 1 / {1 / part:.0f} of {beside[name]}" for name, part in to_cold.items()]
    for kind in ("warm", "cold"):
        more = [1000 * (own - other) for own, other in zip(taken[f"{kind}, own files"], taken[kind], strict=True)]
        low, middle, high = statistics.quantiles(more, n=4)
        lines.append(f"files of its own, {kind}: {middle:+.1f} ms a trial (quartiles {low:+.1f} to {high:+.1f})")
    lines.append(f"the first warm start of all, which waits for the server's imports: {first:.2f} s")
    header = f"start to first metric line; n = {n} each, in turn; {machine('katuna', 'torch', 'numpy')}; {load()}"
    tell(given, header, taken, base="cold", lines=lines, figures={"first_warm_start_s": first, "of_its_own_cold": to_cold})


if __name__ == "__main__":
    main(options(__doc__))
