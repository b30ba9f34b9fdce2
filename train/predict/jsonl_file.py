"""A file of predictions, a line of JSON for each image, which is continued after an interruption.

``FILE.about`` beside it describes the parameters, options and images that the lines come from; lines that come from
others are never added. A line counts once it ends in a line feed; anything after the last line feed is cut off and
predicted again. Images that are in the file already are recognised by their paths.
"""

import contextlib
import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from train import atomic_file
from train.errors import UserError
from train.runs.reading import read_json
from train.terminal import printable

if TYPE_CHECKING:
    from train.runs.model_file import About

FORMAT = "puppet-jax predictions 2"
# What must be the same for a file to be continued, and what it is called in an error.
COMPARED = {"format": "format", "parameters": "parameters", "top": "--top", "images": "IMAGE"}


def describe(run: Path, about: "About", parameters: str, top: int, images: Sequence[str]) -> dict[str, Any]:
    """What goes into ``FILE.about``, of the run's folder, the header and the digest of its parameters, the number of
    classes that a line names, and the paths of images as they were given."""
    given = shlex.join(images[:3])
    if len(images) > 3:
        given += f" and others, {len(images)} in all, sha256 {hashlib.sha256(json.dumps(images).encode()).hexdigest()}"
    steps = {"epoch": about.epoch, "step": about.step}
    return {"format": FORMAT, "run": str(run), **steps, "parameters": parameters, "top": top, "images": given}


def json_line(image: str, record: dict[str, Any]) -> str:
    """An image's line, with its line feed."""
    return json.dumps({"image": image, **record}, allow_nan=False) + "\n"


class PredictionsFile:
    """A file of lines that more are added to: of :func:`opened`.

    Attributes:
        known: the images whose lines it held when it was opened.
        count: images in it.
        failed: how many of them could not be read.
    """

    def __init__(self, path: Path, file: BinaryIO):
        self._path, self._file = path, file
        self.known: set[str] = set()
        self.count, self.failed = 0, 0
        self._end = 0  # of its last whole line

    def write(self, told: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Add a line for each image and its record.

        Afterwards all of them are in the file, even if this process is killed; after an error or Ctrl-C
        none is.
        """
        told = list(told)
        content = "".join(json_line(*each) for each in told).encode()
        left = memoryview(content)
        with _writable(self._path, "what is in it is whole: put that right, and the same command goes on from there"):
            try:
                while left:
                    left = left[os.write(self._file.fileno(), left) :]
            except BaseException:
                with contextlib.suppress(OSError):
                    self._file.truncate(self._end)
                raise
        self._end += len(content)
        self.count += len(told)
        self.failed += sum("error" in record for _, record in told)

    def look(self) -> None:
        """Record which images are in the file, and cut it off after its last whole line."""
        with open(self._path, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.count += 1
                try:
                    record = json.loads(line)
                    self.known.add(record["image"])
                    self.failed += "error" in record
                except (ValueError, RecursionError, TypeError, KeyError) as error:
                    raise UserError(
                        f"--output: {printable(self._path)}, line {self.count}: damaged, expected a prediction; delete "
                        "the line, whose image is then predicted again, or name another file"
                    ) from error
                self._end += len(line)
        self._file.truncate(self._end)


@contextlib.contextmanager
def opened(path: Path, about: dict[str, Any]) -> Iterator[PredictionsFile]:
    """A context with a file of predictions, made if there is none, flushed to the disk at its end. A new one into which
    no line came before an error is removed again.

    Raises:
        UserError: the file cannot be opened, another process writes it, or its lines come from something else or are
            no predictions.
    """
    about_path = path.with_name(path.name + ".about")
    if os.path.exists(path) and not path.is_file():
        raise UserError(f"--output: {printable(path)} is no regular file; name another")
    with contextlib.ExitStack() as stack:
        with _writable(path, "expected a file in a folder that is there"):
            file = stack.enter_context(open(path, "ab", buffering=0))
        if not atomic_file.lock(file.fileno()):
            raise UserError(
                f"--output: another process is writing {printable(path)}; wait for it, or name another file"
            )
        predictions, new = PredictionsFile(path, file), not path.stat().st_size
        try:
            with _writable(path, "choose another file"):
                if new:
                    atomic_file.write(about_path, (json.dumps(about, indent=1) + "\n").encode())
                else:
                    _check(path, about_path, about)
                    predictions.look()
            yield predictions
        except BaseException:
            if new and not predictions.count:
                for each in (path, about_path):
                    with contextlib.suppress(OSError):
                        each.unlink()
            raise
        finally:
            os.fsync(file.fileno())


def _check(path: Path, about_path: Path, about: dict[str, Any]) -> None:
    """Refuse a file whose lines come from something else."""
    if not about_path.exists():
        raise UserError(
            f"--output: {printable(path)} is there already, and not from this command (there is no "
            f"{printable(about_path.name)} beside it); name another file"
        )
    found = read_json(about_path)
    wrong = [
        f"{said} {printable(found.get(key))[:200]}, now {printable(about.get(key))}"
        for key, said in COMPARED.items()
        if found.get(key) != about.get(key)
    ]
    if wrong:
        runs = dict.fromkeys(printable(f"{each.get('run')}, step {each.get('step')}") for each in (found, about))
        raise UserError(
            f"--output: {printable(path)} holds predictions of {', not of '.join(runs)}, not to be mixed with these "
            f"({'; '.join(wrong)}). Name another file, or delete that one to begin anew"
        )


@contextlib.contextmanager
def _writable(path: Path, advice: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"--output: {printable(path)} cannot be written ({error.strerror}); {advice}") from error
