"""Every image of a data set decoded once, by a pool of threads, into an array for each split."""

import itertools
import os
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


def decode(
    data: str,
    parts: Sequence[Records],
    image_size: int | None,
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> tuple[list[Split], list[Skipped]]:
    """Decode every image of several splits, leaving out those that cannot be.

    Args:
        data: the data set's name, for errors.
        parts: the splits.
        image_size: scale every image to a square of this side; ``None`` to take them as they are, all of one size.
        size, channels: ``(H, W)``, and 1 or 3, that all images are known to have. By default their headers tell, before
            the first is decoded: three channels, or one if all are stored as grey.

    Returns:
        the splits, and a :class:`Skipped` for each image left out, in the order of the records.

    Raises:
        UserError: images of several sizes without ``image_size``, or more than half of a split's cannot be read.
    """
    scale = image_size is not None
    if image_size is not None:
        size = image_size, image_size
    if size is None or channels is None:
        found = [list(itertools.chain(*_in_threads(part, _headers, "looking"))) for part in parts]
        size = size or _one_size(data, parts, found)
        channels = channels or (1 if all(header.grey for each in found for header in each if header) else 3)
    decoded = [_decode(data, part, size, channels, scale) for part in parts]
    return [split for split, _ in decoded], [skip for _, skipped in decoded for skip in skipped]


def _headers(records: Records, rows: range) -> list[Header | None]:
    """The header of every image, ``None`` where it cannot be read (decoding then says why)."""
    found: list[Header | None] = []
    for source, _ in records.read(rows):
        try:
            found.append(read_header(source))
        except ImageError:
            found.append(None)
    return found


def _one_size(data: str, parts: Sequence[Records], found: Sequence[Sequence[Header | None]]) -> tuple[int, int]:
    """The ``(H, W)`` that all images of several splits have; ``(1, 1)`` if none has a header."""
    first: dict[tuple[int, int], str] = {}
    for part, of_part in zip(parts, found, strict=True):
        for row, header in enumerate(of_part):
            if header and (header.height, header.width) not in first:
                first[header.height, header.width] = part.name(row)
    if len(first) > 1:
        two = [f"{name} is {width}x{height}" for (height, width), name in itertools.islice(first.items(), 2)]
        raise UserError(
            f"--data {data}: its images vary in size, and must all have one: {', '.join(two)}. Scale and crop all to a "
            "square with --image-size, for example --image-size 64"
        )
    return next(iter(first), (1, 1))


def _decode(
    data: str, records: Records, size: tuple[int, int], channels: int, scale: bool
) -> tuple[Split, list[Skipped]]:
    images = store.allocate((len(records), *size, channels))
    labels = np.empty(len(records), np.int32)

    def fill(records: Records, rows: range) -> list[tuple[int, str]]:
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

    refused = dict(itertools.chain(*_in_threads(records, fill, "decoding")))
    skipped = [Skipped(records.name(row), reason) for row, reason in refused.items()]
    if len(refused) > MAX_SKIPPED * len(records):
        examples = "\n".join(f"  {skip.path}: {skip.reason}" for skip in skipped[:5])
        raise UserError(
            f"--data {data}: {len(refused)} of {len(records)} images cannot be read, expected most to be sound. "
            f"The first:\n{examples}"
        )
    if refused:
        kept = np.array([row for row in range(len(records)) if row not in refused], int)
        images, labels = store.take(images, kept), labels[kept]
    return Split(images, labels), skipped


def _in_threads(records: Records, task: Callable[[Records, range], list], doing: str) -> list[list]:
    """``task`` on ranges that cover all records, results in order; an error or Ctrl-C stops it at once."""
    count = len(records)
    chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    pool = ThreadPoolExecutor(min(cores(), MAX_THREADS))
    try:
        # No bar where standard error is no terminal, or where all is done in a moment.
        with quiet(), tqdm(total=count, desc=doing, unit="image", leave=False, disable=None, delay=0.5) as bar:
            results = []
            for chunk, result in zip(chunks, pool.map(task, itertools.repeat(records), chunks), strict=False):
                results.append(result)
                bar.update(len(chunk))
        return results
    finally:
        pool.shutdown(cancel_futures=True)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
