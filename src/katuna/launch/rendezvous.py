"""Where the processes of a job meet: whether torch's store, which itself listens on every interface, can be held for them on the
loopback address (meeting.py)."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from katuna.launch.process import Command
from katuna.launch.warm.imports import needs, source
from katuna.launch.warm.run_script import Program
from katuna.manifest.job import LOOPBACK, name_torchrun

AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"
"""What tells torch that its store is there already. A job that sets it itself gets none of ours."""
SOCKETS = {f"{library}_SOCKET_IFNAME": "lo" for library in ("GLOO", "NCCL", "TP")} if sys.platform == "linux" else {}
"""The interface for what the ranks then tell each other. A job's own values go before it."""


@dataclass(frozen=True)
class Rendezvous:
    """How the first replica's processes meet. `held`: at a store of ours. `open`: why torch listens on all interfaces, "" where it
    does not, as far as can be seen. `soon`: that somebody will come there for sure."""

    held: bool = False
    open: str = ""
    soon: bool = False


NOWHERE = Rendezvous()


def rendezvous(command: Command, *, own_torch: bool) -> Rendezvous:
    """Of the first replica's command. `own_torch` is whether its interpreter is katuna's own, whose torch speaks as our store does."""
    words, env = " ".join(command.argv).split(), command.env
    uses: bool | None = True
    if name_torchrun(words):
        why = _torchrun_opens(words, env)
    else:
        uses, why = _uses_torch(command) if env.get("MASTER_ADDR") == LOOPBACK else False, ""
    if uses is False:
        return NOWHERE
    why = why or ("" if own_torch else "the torch of another Python")
    return Rendezvous(not why, why, soon=bool(uses) and env.get("WORLD_SIZE") != "1")


def _torchrun_opens(words: Sequence[str], env: Mapping[str, str]) -> str:
    """Why torchrun opens a store of its own; "" where it meets at the address that its replica is told, which may be held."""
    if "PET_STANDALONE" in env or "--standalone" in words:
        return "torchrun --standalone"
    backend = _option(words, "rdzv_backend", env.get("PET_RDZV_BACKEND", "static"))
    if backend != "static":
        return f"torchrun's {backend} rendezvous"
    address, port = (_option(words, name, env.get(f"PET_{name.upper()}", "")) for name in ("master_addr", "master_port"))
    is_told = (address, port) == (LOOPBACK, env.get("PET_MASTER_PORT"))
    elsewhere = not is_told or _option(words, "rdzv_endpoint", env.get("PET_RDZV_ENDPOINT", ""))
    return "torchrun at an address of its own" if elsewhere else ""


def variables(command: Command) -> Mapping[str, str]:
    """The variables that tell torch that its store is there already, for each replica of a job whose store katuna holds."""
    env = command.env
    told = {AGENT_STORE: "True"}
    if "MASTER_ADDR" not in env and "PET_MASTER_ADDR" in env:
        # torchrun looks for them when it finds the port taken.
        told |= {"MASTER_ADDR": env["PET_MASTER_ADDR"], "MASTER_PORT": env.get("PET_MASTER_PORT", "")}
    return told


def _option(words: Sequence[str], name: str, default: str) -> str:
    """The last value of `--name VALUE` or `--name=VALUE`, with `-` for `_` too."""
    found = re.findall(rf"(?:^| )--{name.replace('_', '[-_]')}[ =](\S*)", " ".join(words))
    return str(found[-1]) if found else default


def _uses_torch(command: Command) -> bool | None:
    """Whether the program imports it, as far as its source tells; None where there is no source to see."""
    if Path(command.argv[0]).name.startswith("python") and "-c" in command.argv:
        return "torch" in command.argv[command.argv.index("-c") + 1]
    try:
        program = Program.of(command.argv)
    except ValueError:
        return None
    paths = [str(command.folder / each) for each in command.env.get("PYTHONPATH", "").split(os.pathsep) if each]
    file = source(program, command.folder, paths)
    if file is None or not Path(command.argv[0]).name.startswith("python"):
        return None
    return any(name.partition(".")[0] in ("torch", "torchvision") for name in needs(file, paths).modules)
