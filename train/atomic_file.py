"""Files written so that a reader, or a process that resumes, finds the old file or the whole new one."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

SUFFIX = ".tmp"


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, also if the machine stops meanwhile."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path``. What is written there takes the place of ``path`` at the end of the context, and is
    deleted after an error."""
    temporary = path.with_name(path.name + SUFFIX)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def lock(descriptor: int) -> bool:
    """Whether no other process holds an open file's lock; then this one does until it closes the file, or dies."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    return True
