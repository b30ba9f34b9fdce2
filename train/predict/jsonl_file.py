"""A file of predictions, a line of JSON for each image, which is continued after an interruption.

``FILE.about`` beside it describes the parameters, options and images that the lines come from; lines that come from
others are never added. A line counts once it ends in a line feed; anything after the last line feed is cut off and
predicted again. Images that are in the file already are recognised by their paths.
"""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from train import atomic_file
from train.errors import UserError
from train.runs.reading import read_json
from train.terminal import printable

FORMAT = "puppet-jax predictions 1"
# What must be the same for a file to be continued, and what it is called in an error.
COMPARED = {"format": "format", "parameters": "parameters", "top": "--top", "images": "IMAGE"}


def describe(run: Path, about: dict[str, Any], parameters: str, top: int, images: list[str]) -> dict[str, Any]:
    """The description that goes into ``FILE.about``.

    Args:
        run: folder of the run.
        about: the header of its parameters.
        parameters: their digest.
        top: how many classes a line names.
        images: paths as they were given.
    """
    digest = hashlib.sha256(json.dumps(images).encode()).hexdigest()
    given = {"first": images[:3], "count": len(images), "sha256": digest}
    steps = {"epoch": about.get("epoch"), "step": about.get("step")}
    return {"format": FORMAT, "run": str(run), **steps, "parameters": parameters, "top": top, "images": given}


class PredictionsFile:
    """A file of lines that more are added to, as a context manager. A new one into which no line came before an error
    is removed again.

    Args:
        path: of the file; it is created if there is none.
        about: see :func:`describe`.

    Attributes:
        path: of the file.
        count: images in it.
        failed: how many of them could not be read.
        added: how many were added here.

    Raises:
        UserError: the file cannot be opened, another process writes it, or its lines come from something else or are
            no predictions.
    """

    def __init__(self, path: Path, about: dict[str, Any]):
        self.path, self.count, self.failed, self.added = path, 0, 0, 0
        self._known = np.empty(0, "V16")
        self._file = _open(path)
        self._new = not os.fstat(self._file).st_size
        try:
            if not self._new:
                check(path, about_of(path), about)
                self._end = self._look()
                os.ftruncate(self._file, self._end)
            else:
                self._end = 0
                write_about(path, about)
        except BaseException as error:
            self._close(error)
            if isinstance(error, OSError):
                raise UserError(
                    f"--output: {printable(path)} cannot be written ({error.strerror}); choose another file"
                ) from error
            raise

    def __contains__(self, image: str) -> bool:
        """Whether an image had its line when the file was opened."""
        if not len(self._known):
            return False
        wanted = np.frombuffer(digest(image), "V16")
        place = int(np.searchsorted(self._known, wanted)[0])
        return place < len(self._known) and bool(self._known[place] == wanted[0])

    def write(self, lines: list[str], failed: int) -> None:
        """Add lines, each with its line feed; ``failed`` of them are of images that could not be read.

        Afterwards all of them are in the file, even if this process is killed; after an error or Ctrl-C none is.

        Raises:
            UserError: the disk is full, or the like.
        """
        content = "".join(lines).encode()
        left = memoryview(content)
        try:
            os.lseek(self._file, self._end, os.SEEK_SET)
            while left:
                left = left[os.write(self._file, left) :]
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end)
            if isinstance(error, OSError):
                raise UserError(
                    f"--output: {printable(self.path)} cannot be written ({error.strerror}); what is in it is whole: "
                    "put that right, and the same command goes on from there"
                ) from error
            raise
        self._end += len(content)
        self.count, self.failed, self.added = self.count + len(lines), self.failed + failed, self.added + len(lines)

    def __enter__(self) -> "PredictionsFile":
        return self

    def __exit__(self, kind=None, error=None, *_) -> None:
        """Flush the lines to the disk and close the file."""
        try:
            os.fsync(self._file)
        finally:
            self._close(error)

    def _close(self, error: BaseException | None) -> None:
        if error is not None and self._new and not self.count:
            for path in (self.path, about_path(self.path)):
                with contextlib.suppress(OSError):
                    path.unlink()
        os.close(self._file)

    def _look(self) -> int:
        """Record which images are in the file, and return where its last whole line ends."""
        end, digests = 0, bytearray()
        for line in whole_lines(self.path):
            self.count += 1
            record = _record(line)
            if record is None:
                raise UserError(
                    f"--output: {printable(self.path)}, line {self.count}: damaged, expected a prediction; delete the "
                    "line, whose image is then predicted again, or name another file"
                )
            digests += digest(record["image"])
            self.failed += "error" in record
            end += len(line)
        # Sixteen bytes for each image instead of its path: there may be millions.
        self._known = np.sort(np.frombuffer(digests, "V16"))
        return end


def whole_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, without a last one that has no line feed."""
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line


def once(images: Iterable[str]) -> Iterator[str]:
    """Each image the first time that it comes."""
    seen = set()
    for image in images:
        known = digest(image)
        if known not in seen:
            seen.add(known)
            yield image


def about_path(path: Path) -> Path:
    """The path of ``FILE.about``."""
    return path.with_name(path.name + ".about")


def about_of(path: Path) -> dict[str, Any]:
    """The content of ``FILE.about``.

    Raises:
        UserError: there is none.
    """
    about = about_path(path)
    if not about.exists():
        raise UserError(
            f"--output: {printable(path)} is there already, and not from this command (there is no "
            f"{printable(about.name)} beside it); name another file"
        )
    return read_json(about)


def write_about(path: Path, about: dict[str, Any]) -> None:
    """Write ``FILE.about``, whole or not at all."""
    atomic_file.write(about_path(path), (json.dumps(about, indent=1) + "\n").encode())


def check(path: Path, found: dict[str, Any], about: dict[str, Any]) -> None:
    """Refuse a file whose lines come from something else.

    Raises:
        UserError: names what differs.
    """
    wrong = [
        f"{said} {_short(found.get(key))}, now {_short(about[key])}"
        for key, said in COMPARED.items()
        if found.get(key) != about[key]
    ]
    if not wrong:
        return
    which = [printable(f"{each.get('run')}, step {each.get('step')}") for each in (found, about)]
    runs = f" of {which[0]}" + (f", not of {which[1]}" if which[0] != which[1] else "")
    raise UserError(
        f"--output: {printable(path)} holds predictions{runs}, not to be mixed with these ({'; '.join(wrong)}). Name "
        "another file, or delete that one to begin anew"
    )


def _open(path: Path) -> int:
    """Open a regular file that only this process writes; its descriptor."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0), 0o666)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--output: {printable(path)} cannot be written ({getattr(error, 'strerror', None) or error}); expected a "
            "file in a folder that is there"
        ) from error
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise UserError(f"--output: {printable(path)} is no regular file; name another")
        with contextlib.suppress(ImportError):  # no such thing on Windows
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"--output: another process is writing {printable(path)}; wait for it, or name another file"
                ) from error
            except OSError:  # a file system without locks
                pass
    except BaseException:
        os.close(file)
        raise
    return file


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("image"), str) else None


def digest(image: str) -> bytes:
    """Sixteen bytes that stand for an image's path."""
    # A name that is not UTF-8 is hashed as its escapes, which is how a Parquet file stores it.
    return hashlib.blake2b(image.encode("utf-8", "backslashreplace"), digest_size=16).digest()


def _short(value: Any) -> str:
    if isinstance(value, dict):
        first, count = value.get("first"), value.get("count")
        if not isinstance(first, list):
            return "of another kind"
        return printable(", ".join(map(str, first))) + (f" and others, {count} in all" if count != len(first) else "")
    return printable(value)[:12] if isinstance(value, str) and len(value) == 64 else printable(value)
