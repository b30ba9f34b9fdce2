"""Writing a result, whole or not at all."""

import json
from pathlib import Path

from train import atomic_file

FOLDER = Path(__file__).with_name("results")


def write(path: Path | None, result: dict) -> None:
    """Write ``result`` as JSON, if to somewhere. A reader, or an interruption, never meets half a file."""
    if path is None:
        return
    content = json.dumps(result, indent=1, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_file.write(path, content.encode())
