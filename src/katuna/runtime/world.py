"""Who this process is among its peers, and the collectives that are no-ops when it is alone."""

from __future__ import annotations

import os
import re
import socket
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from katuna.runtime.leaving import failed, leave

LOST = ("gloo", "connection closed by peer", "connection reset by peer", "broken pipe")
"""What the text of torch's RuntimeError has, in lower case, when a collective failed for want of a peer."""
LOST_BY_NCCL = ("ncclremoteerror", "timeout", "timed out", *LOST[1:])
"""The same for NCCL, whose other errors are about this machine."""


@dataclass(frozen=True)
class World:
    """`backend` is "gloo", "nccl", or "" for a process alone (rank 0 of 1), where nothing is initialised."""

    rank: int
    local_rank: int
    size: int
    device: torch.device
    backend: str

    @property
    def is_main(self) -> bool:
        """Rank 0: the one that prints and writes."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The sum over ranks, in each of them; a new tensor."""
        total = value.detach().clone()
        if self.backend:
            dist.all_reduce(total)
        return total

    def part(self, total: float) -> Tensor:
        """A number to add to, this rank's part of a sum that was `total` so far. In float64, where the device has it, so that
        a sum which a resume goes on with prints as if it had not been interrupted."""
        kind = torch.float32 if self.device.type == "mps" else torch.float64
        return torch.tensor(total if self.is_main else 0.0, dtype=kind, device=self.device)

    def mean(self, value: Tensor) -> Tensor:
        return self.sum(value) / self.size

    def barrier(self) -> None:
        self.agree(False)

    def agree(self, flag: bool) -> bool:
        """Whether any rank says so."""
        if not self.backend:
            return flag
        votes = torch.tensor(int(flag))  # on the CPU: beside NCCL there is gloo, which does not wait for what the GPU has to do
        dist.all_reduce(votes, dist.ReduceOp.MAX)
        return bool(votes.item())


@dataclass(frozen=True)
class Place:
    """What the environment says: `at` is the address and port of rank 0, None for a process alone."""

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    at: tuple[str, int] | None = None


@contextmanager
def world(device: str = "auto", timeout_s: float = 300.0, silence_s: float = 1800.0) -> Iterator[World]:
    """The process's place, from RANK, WORLD_SIZE, LOCAL_RANK and MASTER_* as torchrun and PyTorchJobs set them, or none.

    All ranks leave the block together. Raises SystemExit(1) with one line when the device is absent, when ranks do not join within
    `timeout_s`, naming them, when they have different kinds of device, and when a peer is lost in the block. One that lives but does
    not come to a collective within `silence_s` counts as lost; the default leaves rank 0 the time to download or to export. With NCCL
    its watchdog ends the process, in its own words. With several ranks an exception of the block's own is printed and becomes
    SystemExit(1): whoever fails waits for no peer.
    """
    place = place_in(os.environ)
    found = device_for(device, place)
    if place.at is None:
        yield World(0, place.local_rank, 1, found, "")
        return
    backend = "nccl" if found.type == "cuda" and dist.is_nccl_available() else "gloo"
    # Before there is a group, whose last one its functions would else keep as a default: gloo's threads then outlived it, and
    # one of them that met the interpreter's end aborted the process.
    import_module("torch.distributed.nn")
    store = joined(place, place.at, timeout_s)
    of_one_kind(store, place, found)
    here = World(place.rank, place.local_rank, place.size, found, backend)
    try:
        both = "cpu:gloo,cuda:nccl" if backend == "nccl" else backend
        dist.init_process_group(both, store=store, rank=place.rank, world_size=place.size, timeout=timedelta(seconds=silence_s))
        yield here
        with suppress(RuntimeError):  # a peer that leaves at once could take from this one the last bytes it sent
            here.barrier()
    except BaseException as error:  # noqa: BLE001
        if isinstance(error, RuntimeError) and lost(error):
            said = f"one did not answer for {silence_s:g} s" if "timed out" in str(error).lower() else why(error)
            error = SystemExit(f"error: rank {place.rank} of {place.size} lost a peer: {said}")
        elif isinstance(error, dist.DistBackendError):
            error = SystemExit(f"error: rank {place.rank} of {place.size}: {backend}: {why(error)}")
        raise failed(error) from None
    leave()


def place_in(environ: Mapping[str, str]) -> Place:
    """LOCAL_RANK is absent in a PyTorchJob that starts no torchrun: it is 0 then, as each replica sees its own devices alone.

    Raises SystemExit(1) for an environment that contradicts itself.
    """
    if "WORLD_SIZE" not in environ and "RANK" not in environ:
        return Place()
    missing = [name for name in ("RANK", "WORLD_SIZE") if name not in environ]
    if missing:
        raise SystemExit(
            f"error: the environment has a rank in parts: {missing[0]} is not set; start ranks with both or with none"
        )
    rank, size, local = (_number(environ, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if rank >= size:
        raise SystemExit(f"error: RANK is {rank}; it must be below WORLD_SIZE, which is {size}")
    if size == 1:
        return Place(local_rank=local)
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not environ.get(name)]
    if missing:
        verb = "are not set; they say" if len(missing) > 1 else "is not set; it says"
        raise SystemExit(f"error: WORLD_SIZE is {size}, but {' and '.join(missing)} {verb} where rank 0 listens")
    port = _number(environ, "MASTER_PORT")
    if not 0 < port < 2**16:
        raise SystemExit(f"error: MASTER_PORT is {port}; it must be from 1 to 65535")
    return Place(rank, local, size, (environ["MASTER_ADDR"], port))


def device_for(wanted: str, place: Place) -> torch.device:
    """Raises SystemExit(1) with one line for a device that is not here."""
    alone, visible = place.size == 1, os.environ.get("CUDA_VISIBLE_DEVICES")
    usable = {"cuda": torch.cuda.is_available(), "mps": alone and torch.backends.mps.is_available(), "cpu": True}
    kind = next(name for name, there in usable.items() if there) if wanted == "auto" else wanted
    if wanted in ("auto", "cuda") and not usable["cuda"] and names_a_gpu(visible):
        raise SystemExit(
            f"error: this process was given a GPU (CUDA_VISIBLE_DEVICES is {visible}) that PyTorch cannot use: {cuda_fault()}; "
            "mend that, or take --device cpu"
        )
    if not usable[kind]:
        names = ", ".join(name for name, there in usable.items() if there)
        raise SystemExit(f"error: --device {kind} is not usable here; these are: {names}{_no_gpu_hint(kind, os.environ)}")
    if kind != "cuda":
        return torch.device(kind)
    if place.local_rank >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise SystemExit(
            f"error: LOCAL_RANK is {place.local_rank}, but {count} CUDA devices are visible; start no more processes"
        )
    found = torch.device("cuda", place.local_rank)
    with warnings.catch_warnings(action="ignore"):  # torch writes a page about a GPU that it was not built for
        capability = torch.cuda.get_device_capability(found)
    if not built_for(capability, built := torch.cuda.get_arch_list()):
        raise SystemExit(
            f"error: this PyTorch was not built for the GPU here, {torch.cuda.get_device_name(found)} of compute capability "
            f"{'.'.join(map(str, capability))}, but for {', '.join(built)}; install one that was, or take --device cpu"
        )
    torch.cuda.set_device(found)
    return found


def built_for(capability: tuple[int, int], built: Sequence[str]) -> bool:
    """Whether a GPU of this compute capability runs what PyTorch was built as: binaries of its own major version and no later minor
    one (`sm_80` on 8.6), or intermediate code of any that is no later (`compute_90`). What is named otherwise, or not, may fit."""
    found = [match for match in (re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", name) for name in built) if match]
    versions = [(match[1], (int(match[2]), int(match[3]))) for match in found]
    return not versions or any(
        version <= capability and (kind == "compute" or version[0] == capability[0]) for kind, version in versions
    )


def names_a_gpu(visible: str | None) -> bool:
    """Whether CUDA_VISIBLE_DEVICES names a device. CUDA ignores all entries after the first invalid one."""
    return re.match(r"\s*(\d|GPU-|MIG-)", visible or "") is not None


def cuda_fault() -> str:
    """Why there is no CUDA, in PyTorch's words."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return " ".join(str(error).split()).partition(". ")[0]
    return "it finds no device there"


def of_one_kind(store: Store, place: Place, found: torch.device) -> None:
    """Raises SystemExit(1) with one line, in each rank, when ranks have different kinds of device: no backend joins those."""
    store.set(f"device/{place.rank}", found.type)
    try:
        kinds = [store.get(f"device/{rank}").decode() for rank in range(place.size)]
    except RuntimeError as error:
        raise SystemExit(
            f"error: rank {place.rank} of {place.size}: a rank left while devices were compared: {why(error)}"
        ) from None
    if len({*kinds}) == 1:
        return
    give_up(store, place, [], holds=_serves(place))
    named = " and ".join(
        f"{_ranks([at for at, each in enumerate(kinds) if each == kind])} on {kind}" for kind in sorted({*kinds})
    )
    raise SystemExit(
        f"error: the ranks have different kinds of device: {named}; ask for a GPU for each replica, or take --device cpu for all"
    )


def joined(place: Place, at: tuple[str, int], timeout_s: float) -> Store:
    """The ranks' common store, once all of them have said that they are there.

    torch's own waits tell how many came, not which, and write pages about it. Under torchrun the agent holds the store, else rank 0.
    """
    deadline = time.monotonic() + timeout_s
    me, where = f"rank {place.rank} of {place.size}", f"{at[0]}:{at[1]}"
    serves = _serves(place)
    if not serves and not answers(at, deadline):
        raise SystemExit(f"error: {me}: rank 0 did not join within {timeout_s:g} s at {where}")
    missing = list(range(place.size))
    try:
        tcp = TCPStore(*at, place.size, serves, timedelta(seconds=timeout_s), wait_for_workers=False)
        store = PrefixStore(f"katuna/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", tcp)
        store.set(f"joined/{place.rank}", "")
        while missing and time.monotonic() < deadline and not store.check(["given-up"]):
            missing = [rank for rank in missing if not store.check([f"joined/{rank}"])]
            time.sleep(0.02 if missing else 0)
        if missing:
            give_up(store, place, missing, holds=serves)
    except (RuntimeError, ValueError) as error:
        here = serves and place.rank in missing
        problem = f"could not listen: {why(error)}" if here else "lost rank 0 while ranks were joining"
        raise SystemExit(f"error: {me} at {where}: {problem}") from None
    if missing:
        hint = _hint(os.environ)
        raise SystemExit(f"error: {_ranks(missing)} of {place.size} did not join within {timeout_s:g} s at {where}{hint}")
    return store


def give_up(store: Store, place: Place, missing: list[int], *, holds: bool) -> None:
    """The rank that holds the store waits until the ranks that joined know of the end: torch prints pages about a store that
    went away."""
    store.set(f"left/{place.rank}", "")
    if not holds:
        return
    store.set("given-up", "")
    joined_ones = [f"left/{rank}" for rank in range(place.size) if rank not in missing]
    until = time.monotonic() + 2
    while not store.check(joined_ones) and time.monotonic() < until:
        time.sleep(0.02)


def answers(at: tuple[str, int], deadline: float) -> bool:
    """Whether somebody listens there before `deadline` (of time.monotonic)."""
    while (left := deadline - time.monotonic()) > 0:
        with suppress(OSError), socket.create_connection(at, timeout=left):
            return True
        time.sleep(min(0.05, left))
    return False


def lost(error: RuntimeError) -> bool:
    """Whether a collective failed because a peer is gone."""
    text = str(error).lower()
    if isinstance(error, dist.DistBackendError) and "nccl" in text:
        return any(word in text for word in LOST_BY_NCCL)
    return isinstance(error, dist.DistError) or any(word in text for word in LOST)


def why(error: Exception) -> str:
    """What the transport says, without the sources' names before and the advice behind; of NCCL what follows "Last error:"."""
    _, _, last = str(error).partition("Last error:")
    if last.strip():
        return " ".join(last.split())
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    said = re.search(r"connection (closed|reset) by peer|broken pipe|address already in use|timed out[^.]*", text, re.IGNORECASE)
    return said[0].lower() if said else text


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "0")
    if not (text.isascii() and text.isdigit()):
        raise SystemExit(f"error: {name} is {text!r}; it must be a whole number, 0 or more")
    return int(text)


def _serves(place: Place) -> bool:
    """Whether this rank holds the store."""
    return place.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"


def _ranks(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _no_gpu_hint(kind: str, environ: Mapping[str, str]) -> str:
    """A job's container sees the GPUs that are leased to it, and no other."""
    if kind != "cuda" or "KATUNA_TRIAL_DIR" not in environ or environ.get("CUDA_VISIBLE_DEVICES", "-") != "":
        return ""
    return (
        ". This container was given no GPU: its job asks for none, or katuna was told --device cpu; write "
        "`resources: {limits: {nvidia.com/gpu: 1}}`, tell katuna --device cuda, or take --device cpu for the training"
    )


def _hint(environ: Mapping[str, str]) -> str:
    """RANK is a replica's rank in a PyTorchJob, WORLD_SIZE counts processes: with nprocPerNode above 1 only torchrun starts them all."""
    processes = environ.get("PET_NPROC_PER_NODE", "1")
    if not processes.isdigit() or int(processes) < 2 or "TORCHELASTIC_RUN_ID" in environ:
        return ""
    return f"; nprocPerNode is {processes}, which asks for torchrun as the command, or for nprocPerNode 1"
