"""Arrays for decoded images: in memory if they fit, else in a memory-mapped file."""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from train.errors import UserError

# A split is kept in memory if it takes at most this share of the available memory. Half, because a data set may be
# copied once (to hold out a part of it), and the model needs memory too.
SHARE = 0.5


def allocate(shape: tuple[int, ...]) -> np.ndarray:
    """An array of uint8, its values undefined: in memory if it fits there, else an ``np.memmap``; refused if neither
    memory nor the disk has room.

    The file has no name, so it is gone when the array is, however the process ends.
    """
    size = int(np.prod(shape, dtype=object))
    # An empty file cannot be mapped.
    if size == 0 or size <= SHARE * available_memory():
        return np.empty(shape, np.uint8)
    directory = scratch()
    free = shutil.disk_usage(directory).free
    if size > free:
        raise UserError(
            f"--data: decoded, the images take {size / 2**30:.1f} GiB, more than {SHARE:.0%} of the available memory; "
            f"{directory} has {free / 2**30:.1f} GiB free. Point the environment variable TMPDIR to a larger disk, or "
            "make the images smaller with --image-size"
        )
    with tempfile.TemporaryFile(dir=directory) as file:
        if hasattr(os, "posix_fallocate"):
            # Allocated now: if the disk filled up later, the process would end with a bus error.
            os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, np.uint8, "r+", shape=shape)


def take(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """``images[rows]``, allocated by :func:`allocate`, a piece at a time."""
    taken = allocate((len(rows), *images.shape[1:]))
    for start in range(0, len(rows), 1024):
        taken[start : start + 1024] = images[rows[start : start + 1024]]
    return taken


def scratch() -> Path:
    """The folder for large files: the environment variable TMPDIR, else /var/tmp, as /tmp often lies in memory."""
    if not os.environ.get("TMPDIR") and os.access("/var/tmp", os.W_OK | os.X_OK):
        return Path("/var/tmp")
    return Path(tempfile.gettempdir())


def available_memory() -> int:
    """Bytes that can be taken without swapping, within the limit of the container if there is one."""
    import psutil

    available = psutil.virtual_memory().available
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):  # no control groups, or "max"
        return available
    return max(0, min(available, limit - used))
