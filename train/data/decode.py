"""Every image of a data set decoded once, by a pool of threads, into an array for each split."""

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from train.data import store
from train.data.ahead import in_order
from train.data.images import Header, ImageError, quiet, read_header, read_image
from train.data.split import Skipped, Split
from train.errors import UserError

# Images that one thread takes at a time: reading many records at once is faster, and threads rarely wait.
CHUNK = 128

# More threads would mostly wait for the interpreter: small images are decoded in a moment.
MAX_THREADS = 8

# The side that images are brought to which are larger than the other number, or of several sizes. The presets are made
# for it: on larger ones their layers see parts of an object, and a step takes longer by the number of pixels.
SIDE, LARGEST_AS_IT_IS = 32, 64

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
) -> tuple[list[Split], list[Skipped], str]:
    """Decode every image of several splits, leaving out those that cannot be.

    Args:
        image_size: scale every image to a square of this side; ``None`` to take them as they are, or where they are of
            several sizes or large, to scale them to ``SIDE``.
        size, channels: ``(H, W)``, and 1 or 3, that all images are known to have. By default their headers tell, before
            the first is decoded: three channels, or one if all are stored as grey.

    Returns:
        the splits, a :class:`Skipped` for each image left out, in the order of the records, and a note of how they were
        scaled, if that was not asked for.

    Raises:
        UserError: more than half of a split's cannot be read.
    """
    note = ""
    if image_size is not None:
        size = image_size, image_size
    if size is None or channels is None:
        found = [header for part in parts for some in _in_threads(part, _headers, "looking") for header in some]
        if size is None:
            size, note = _size(found)
        channels = channels or (1 if all(header.grey for header in found if header) else 3)
    scale = image_size is not None or bool(note)
    decoded = [_decode(data, part, size, channels, scale) for part in parts]
    return [split for split, _ in decoded], [skip for _, skipped in decoded for skip in skipped], note


def _headers(records: Records, rows: range) -> list[Header | None]:
    """The header of every image, ``None`` where it cannot be read (decoding then says why)."""
    found: list[Header | None] = []
    for source, _ in records.read(rows):
        try:
            found.append(read_header(source))
        except ImageError:
            found.append(None)
    return found


def _size(found: Iterable[Header | None]) -> tuple[tuple[int, int], str]:
    """The ``(H, W)`` that images with these headers are brought to, and a note if it is not their own."""
    sizes = sorted({(header.height, header.width) for header in found if header}, key=math.prod) or [(1, 1)]
    if len(sizes) == 1 and max(sizes[0]) <= LARGEST_AS_IT_IS:
        return sizes[0], ""
    (low, wide), (high, wider) = sizes[0], sizes[-1]
    of = f"of {wide}x{low} pixels" if len(sizes) == 1 else f"from {wide}x{low} to {wider}x{high} pixels"
    return (SIDE, SIDE), f"images {of} are scaled and cut to {SIDE}x{SIDE} (--image-size)"


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
    done = in_order(lambda rows: task(records, rows), chunks, threads=min(cores(), MAX_THREADS), ahead=len(chunks))
    # No bar where standard error is no terminal, or where all is done in a moment.
    with (
        quiet(),
        contextlib.closing(done),
        tqdm(total=count, desc=doing, unit="image", leave=False, disable=None, delay=0.5) as bar,
    ):
        results = []
        for chunk, result in zip(chunks, done, strict=True):
            results.append(result)
            bar.update(len(chunk))
    return results


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
