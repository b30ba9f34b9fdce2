"""Writing a result, whole or not at all."""

import json
import os
import tempfile
from pathlib import Path

FOLDER = Path(__file__).with_name("results")


def write(path: Path | None, result: dict) -> None:
    """Write ``result`` as JSON, if to somewhere. A reader, or an interruption, never meets half a file."""
    if path is None:
        return
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
