"""How a rank leaves its process group: after a good end nothing of the group is left, after a failure it waits for nobody."""

from __future__ import annotations

import faulthandler
import gc
import sys
from contextlib import suppress

import torch.distributed as dist
from torch.distributed.distributed_c10d import _abort_process_group

GRACE_S = 60.0
"""How long a process whose rank failed may go on, before it is ended with exit code 1."""


def leave() -> None:
    """Destroys the group, and takes it out of every device mesh. The caches of DTensor keep meshes till the process ends, and a
    mesh keeps its group: a thread of gloo's that met the interpreter's end aborted the process after a good training."""
    dist.destroy_process_group()
    forget()


def failed(error: BaseException) -> BaseException:
    """Gives the group up at once, as destroying it can wait for peers that do not come; returns what to raise. That is SystemExit(1)
    for an exception that was not meant for the user, which is printed first; any other as it is.

    Whatever then keeps the process, an outer block or the driver, ends after GRACE_S: who started the ranks must hear of the failure.
    """
    if isinstance(error, Exception):
        trace = error.__traceback__
        sys.excepthook(type(error), error, trace and trace.tb_next)  # without the frame of `world`
        sys.stderr.flush()
        error = SystemExit(1)
    faulthandler.dump_traceback_later(GRACE_S, exit=True, file=2)
    if dist.is_initialized():
        with suppress(RuntimeError):
            _abort_process_group()
        forget()
    return error


def forget() -> None:
    if "torch.distributed.tensor" not in sys.modules:
        return
    from torch.distributed.device_mesh import DeviceMesh

    for each in gc.get_objects():
        if type(each) is DeviceMesh:  # isinstance asks some objects for more than their type
            each._pg_registry.clear()
    gc.collect()
