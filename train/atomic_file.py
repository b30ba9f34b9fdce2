"""Files written so that a reader, or a process that resumes, finds the old file or the whole new one."""

import os
from pathlib import Path

SUFFIX = ".tmp"


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, also if the machine stops meanwhile."""
    temporary = path.with_name(path.name + SUFFIX)
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
