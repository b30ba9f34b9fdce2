"""A file of predictions, a line of JSON for each image, which is continued after an interruption.

``FILE.about`` beside it tells which parameters and options the lines come from; lines of others are never added. A line
counts once it ends in a line feed; anything after the last line feed is cut off and predicted again. Images that are in
the file already are recognised by their paths.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from train import atomic_file
from train.errors import UserError
from train.terminal import printable

FORMAT = "puppet-jax predictions 3"


def json_line(image: str, record: dict[str, Any]) -> str:
    """An image's line, with its line feed."""
    return json.dumps({"image": image, **record}, allow_nan=False) + "\n"


class PredictionsFile:
    """A file of lines that more are added to: of :func:`opened`.

    Attributes:
        known: the images in it.
        failed: how many of them could not be read.
    """

    def __init__(self, path: Path, file: BinaryIO):
        self._file = file
        self.known: set[str] = set()
        self.failed = end = 0
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    record = json.loads(line)
                    self._note(record["image"], record)
                except (ValueError, RecursionError, TypeError, KeyError) as error:
                    raise UserError(
                        f"--output: {printable(path)}, line {number}: damaged, expected a prediction; delete the line, "
                        "whose image is then predicted again, or name another file"
                    ) from error
                end += len(line)
        file.truncate(end)

    def write(self, told: list[tuple[str, dict[str, Any]]]) -> None:
        """Add a line for each image and its record.

        Afterwards all of them are in the file, even if this process is killed; after an error or Ctrl-C
        none is.
        """
        left = memoryview("".join(json_line(*each) for each in told).encode())
        end = os.fstat(self._file.fileno()).st_size
        try:
            while left:
                left = left[os.write(self._file.fileno(), left) :]
        except BaseException:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            raise
        for each in told:
            self._note(*each)

    def _note(self, image: str, record: dict[str, Any]) -> None:
        self.known.add(image)
        self.failed += "error" in record


@contextlib.contextmanager
def opened(path: Path, parameters: str, top: int) -> Iterator[PredictionsFile]:
    """A context with a file of predictions of the ``top`` most probable classes by the ``parameters`` of a digest, made
    if there is none, flushed to the disk at its end.

    Raises:
        UserError: another process writes the file, or its lines come from something else or are no predictions.
    """
    about_path = path.with_name(path.name + ".about")
    about = f"{FORMAT}, parameters {parameters}, --top {top}\n"
    with open(path, "ab", buffering=0) as file:
        if not atomic_file.lock(file.fileno()):
            raise UserError(
                f"--output: another process is writing {printable(path)}; wait for it, or name another file"
            )
        if path.stat().st_size == 0:
            atomic_file.write(about_path, about.encode())
        found = about_path.read_text("utf-8", "replace") if about_path.exists() else "another program"
        if found != about:
            raise UserError(
                f"--output: {printable(path)} holds lines of {printable(found.strip())[:200]}, not to be mixed with "
                f"{about.strip()}. Name another file, or delete that one to begin anew"
            )
        try:
            yield PredictionsFile(path, file)
        finally:
            os.fsync(file.fileno())
