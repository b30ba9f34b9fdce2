"""Writing a result, whole or not at all, and telling where it went."""

import json
import os
import tempfile
from pathlib import Path

FOLDER = Path(__file__).with_name("results")


def write(path: Path, result: dict) -> None:
    """Write ``result`` as JSON. A reader, or an interruption, never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(result, file, indent=1, allow_nan=False)
            file.write("\n")
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def finish(path: Path, result: dict, told: str) -> None:
    """Write ``result``, print what it says, and where it is."""
    write(path, result)
    print(f"{told}\n\nwritten: {path}")
