"""Takes shared memory of a fixed name, or that which is there, and leaves it behind."""

import os
import struct
import sys
import time
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory

lr = float(sys.argv[1].removeprefix("--lr="))
name = f"{os.environ['MARK']}.memory"
try:
    block = SharedMemory(name, create=True, size=64)
    struct.pack_into("d", block.buf, 0, lr)
except FileExistsError:
    time.sleep(0.1)
    block = SharedMemory(name)
resource_tracker.unregister(f"/{name}", "shared_memory")
time.sleep(0.05)
print(f"acc={struct.unpack_from('d', block.buf)[0]:.6f}")
block.close()
