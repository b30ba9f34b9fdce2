"""Every image of a split decoded once, by a pool of threads, into one array."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from train.data import store
from train.data.images import Header, ImageError, quiet, read_header, read_image
from train.data.split import Skipped, Split
from train.errors import UserError

# Images that one thread takes at a time: reading many records at once is faster, and threads rarely wait.
CHUNK = 128

# More threads would mostly wait for the interpreter: small images are decoded in a moment.
MAX_THREADS = 8

# The largest share of unreadable images. Above it, this is hardly the data set that was meant.
MAX_SKIPPED = 0.5


class Records(Protocol):
    """Encoded images with their labels."""

    def __len__(self) -> int: ...

    def read(self, rows: range) -> Sequence[tuple[Path | bytes, int]]:
        """Path or bytes, and label, of each of some rows; called from several threads."""

    def name(self, row: int) -> str:
        """The record's name for a person: its path."""


def headers(records: Records) -> list[Header | None]:
    """The header of every image, ``None`` where it cannot be read (:func:`decode` then says why)."""

    def look(rows: range) -> list[Header | None]:
        return [_or_none(source) for source, _ in records.read(rows)]

    return [header for chunk in _in_threads(look, len(records), "looking") for header in chunk]


def one_size(data: str, parts: Sequence[Records], found: Sequence[Sequence[Header | None]]) -> tuple[int, int]:
    """The ``(H, W)`` that all images of several splits have; ``(1, 1)`` if none has a header.

    Args:
        data: the data set's name, for errors.
        parts: the splits.
        found: the :func:`headers` of each.

    Raises:
        UserError: there are several; it names two.
    """
    every = [
        (part, row, header) for part, of_part in zip(parts, found, strict=True) for row, header in enumerate(of_part)
    ]
    sizes = Counter((header.height, header.width) for _, _, header in every if header)
    if not sizes:
        return 1, 1
    (size, _), *others = sizes.most_common()
    if others:
        usual = next(part.name(row) for part, row, header in every if header and (header.height, header.width) == size)
        for part, row, header in every:
            # An image that is damaged after its header will be left out, so its size does not matter.
            if header and (header.height, header.width) != size and _is_sound(part, row):
                raise UserError(
                    f"--data {data}: its images vary in size, and must all have one: {usual} is {size[1]}x{size[0]}, "
                    f"{part.name(row)} is {header.width}x{header.height}. Scale and crop all to a square with "
                    "--image-size, for example --image-size 64"
                )
    return size


def decode(data: str, records: Records, size: tuple[int, int], channels: int, *, scale: bool) -> tuple[Split, list]:
    """Decode every image, leaving out those that cannot be.

    Args:
        data: the data set's name, for errors.
        size: ``(H, W)`` of every image in the split.
        channels: 1 or 3.
        scale: bring images to ``size``; else one of another size is left out.

    Returns:
        the split and a :class:`Skipped` for each image left out, in the order of the records.

    Raises:
        UserError: more than half of the images cannot be read.
    """
    images = store.allocate((len(records), *size, channels))
    labels = np.empty(len(records), np.int32)

    def fill(rows: range) -> list[tuple[int, str]]:
        refused = []
        for row, (source, label) in zip(rows, records.read(rows), strict=True):
            labels[row] = label
            try:
                image = read_image(source, size if scale else None, channels)
                if image.shape[:2] != size:
                    raise ImageError(f"{image.shape[1]}x{image.shape[0]} pixels, expected {size[1]}x{size[0]}")
                images[row] = image
            except ImageError as error:
                refused.append((row, str(error)))
        return refused

    refused = dict(pair for chunk in _in_threads(fill, len(records), "decoding") for pair in chunk)
    skipped = [Skipped(records.name(row), reason) for row, reason in refused.items()]
    if len(refused) > MAX_SKIPPED * len(records):
        examples = "\n".join(f"  {skip.path}: {skip.reason}" for skip in skipped[:5])
        raise UserError(
            f"--data {data}: {len(refused)} of {len(records)} images cannot be read, expected most to be sound. "
            f"The first:\n{examples}"
        )
    if refused:
        kept = np.array([row for row in range(len(records)) if row not in refused], int)
        images, labels = store.keep(images, kept), labels[kept]
    return Split(images, labels), skipped


def _is_sound(records: Records, row: int) -> bool:
    [(source, _)] = records.read(range(row, row + 1))
    try:
        read_image(source, None, 3)
    except ImageError:
        return False
    return True


def _or_none(source: Path | bytes) -> Header | None:
    try:
        return read_header(source)
    except ImageError:
        return None


def _in_threads(task: Callable[[range], list], count: int, doing: str) -> list[list]:
    """``task`` on ranges that cover ``range(count)``, results in order; an error or Ctrl-C stops it at once."""
    chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    pool = ThreadPoolExecutor(min(cores(), MAX_THREADS))
    try:
        # No bar where standard error is no terminal, or where all is done in a moment.
        with quiet(), tqdm(total=count, desc=doing, unit="image", leave=False, disable=None, delay=0.5) as bar:
            results = []
            for chunk, result in zip(chunks, pool.map(task, chunks), strict=True):
                results.append(result)
                bar.update(len(chunk))
        return results
    finally:
        pool.shutdown(cancel_futures=True)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
