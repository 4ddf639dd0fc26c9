"""Two ranks that meet, do one all-reduce and exit: ours forked from a server that is ready, beside torchrun.
`python benchmarks/launch.py [n] [--quick] [--json]`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sidebyside import Options, load, machine, options, ratio, tell
from trials import Running

from katuna.launch.warm.starter import WarmStarter

RANKS = 2
PAUSE_S = 1.0

PROGRAM = """\
import os
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
assert total.item() == dist.get_world_size() == 2
dist.destroy_process_group()
"""


def ours(starter: WarmStarter, folder: Path, script: Path) -> float:
    """Seconds from the first rank's start to the last one's end, with the environment that the operator gives a replica."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(RANKS), "GLOO_SOCKET_IFNAME": "lo"}
    began = time.perf_counter()
    trials = [Running(starter, folder / str(rank), (str(script),), {**shared, "RANK": str(rank)}) for rank in range(RANKS)]
    for trial in trials:
        trial.end()
        assert trial.process.how["start"] == "warm", trial.process.how
    return time.perf_counter() - began


def torchrun(folder: Path, script: Path) -> float:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    began = time.perf_counter()
    subprocess.run(command, check=True, cwd=folder, env=environment, capture_output=True)
    return time.perf_counter() - began


def main(given: Options) -> None:
    n = given.n or (2 if given.quick else 9)
    taken: dict[str, list[float]] = {"torchrun": [], "katuna, warm": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = folder / "program.py"
        script.write_text(PROGRAM)
        starter = WarmStarter()
        first = ours(starter, folder / "first", script)
        for turn in range(n + 1):
            row = torchrun(folder, script), time.sleep(PAUSE_S), ours(starter, folder / f"turn{turn}", script)
            if turn:
                taken["torchrun"].append(row[0])
                taken["katuna, warm"].append(row[2])
        starter.close()
    lines = [
        f"katuna, warm: 1 / {1 / ratio(taken, 'katuna, warm', 'torchrun'):.1f} of torchrun",
        f"katuna's first launch, which starts the server and waits for its imports: {first:.2f} s",
    ]
    header = f"{RANKS} ranks, one all-reduce, exit; n = {n} each, in turn; {machine('katuna', 'torch')}; {load()}"
    tell(given, header, taken, base="torchrun", lines=lines, figures={"first_launch_s": first})


if __name__ == "__main__":
    main(options(__doc__))
