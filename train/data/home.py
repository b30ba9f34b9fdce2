"""``~`` in a path."""

from pathlib import Path


def home(path: Path) -> Path:
    """A path with ``~`` filled in, if there is a home: a container may run under a user that has none."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path
