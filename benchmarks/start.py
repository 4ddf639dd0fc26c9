"""From the start of a trial to its first metric line, warm beside cold: a script that imports PyTorch, takes one step of AdamW and
prints one line. `python benchmarks/start.py [n] [--quick] [--json]`.

    cold            an interpreter of its own
    warm            forked before it was needed: the server keeps two processes ready
    warm, a third   one start more at once than are ready: it waits for its forks
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from sidebyside import Options, load, machine, options, ratio, tell
from trials import Running

from katuna.launch.process import ColdStarter
from katuna.launch.warm import WarmStarter

READY = 2
"""As in katuna/launch/forkserver.py."""
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


def measure(folder: Path, n: int) -> tuple[dict[str, list[float]], float]:
    """Seconds by kind, and those of the first warm start of all, which waits for the server's imports."""
    script = folder / "program.py"
    script.write_text(PROGRAM)
    taken: dict[str, list[float]] = {"cold": [], "warm": [], "warm, a third": []}
    cold, warm = ColdStarter(), WarmStarter()
    place = iter(range(1_000_000))

    def begin(starter: ColdStarter | WarmStarter) -> Running:
        return Running(starter, folder / str(next(place)), (str(script),), {})

    trial = begin(warm)
    first = trial.first_line()
    trial.end()
    for turn in range(n + 1):
        time.sleep(PAUSE_S)
        trials = [begin(cold)]
        row = {"cold": trials[0].first_line()}
        trials[0].end()
        trials = [begin(warm)]
        row["warm"] = trials[0].first_line()
        trials[0].end()
        time.sleep(PAUSE_S)
        trials = [begin(warm) for _ in range(READY + 1)]
        row["warm, a third"] = max(trial.first_line() for trial in trials)
        for trial in trials:
            trial.end()
            assert trial.process.how["start"] == "warm", trial.process.how
        if turn:
            for name, seconds in row.items():
                taken[name].append(seconds)
    warm.close()
    return taken, first


def main(given: Options) -> None:
    n = given.n or (3 if given.quick else 15)
    with tempfile.TemporaryDirectory() as folder:
        taken, first = measure(Path(folder), n)
    lines = [f"{name}: 1 / {1 / ratio(taken, name, 'cold'):.0f} of cold" for name in taken if name != "cold"]
    lines.append(f"the first warm start of all, which waits for the server's imports: {first:.2f} s")
    header = f"start to first metric line; n = {n} each, in turn; {machine('katuna', 'torch', 'numpy')}; {load()}"
    tell(given, header, taken, base="cold", lines=lines, figures={"first_warm_start_s": first})


if __name__ == "__main__":
    main(options(__doc__))
