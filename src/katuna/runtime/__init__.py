"""What trainers import: PyTorch's own parts for running anywhere, thinly. The loop stays in the trainer.

arguments    a frozen dataclass is a trainer's flags
world        rank, world size, device; collectives that are no-ops in one process
leaving      the end of the ranks' group, for the world
parallel     DDP or FSDP2 around a model, gradient accumulation, clipping
precision    autocast, TF32, torch.compile, channels_last
loader       which examples each rank sees in which step, and keeping the device fed
workers      the processes that load, for the loader
checkpoint   saving and restoring, bit for bit
randomness   one seed for Python, NumPy and torch
stop         step and time limits, SIGTERM
reporter     metric lines, TensorBoard, profiler
export       the model that a training leaves behind
exported     the same, as its readers see it, without torch
data         where the dataset lies, and the digest of what is trained on
images       labelled images by name or from a folder, and how they change
table        a table as numbers and codes
"""
