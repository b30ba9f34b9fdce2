"""Files of images to what a model says of them, while later images are being read and decoded."""

import contextlib
import itertools
import math
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from train.data.decode import MAX_THREADS, cores
from train.data.images import ImageError, quiet, read_image
from train.predict.predictor import Predictor, records
from train.terminal import printable

# Images in a device's batch, and the most bytes that its pixels take, which limits batches of large images.
BATCH, BATCH_BYTES = 256, 64 * 2**20
# Batches that are decoded while another one is with the model.
AHEAD = 2
# Images that a thread takes at a time: passing them singly would cost as much as decoding small ones.
CHUNK = 64
BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}, {rate_fmt}, {remaining} left"


def predict_images(
    names: Sequence[str], predictor: Predictor, top: int, *, done: int = 0, bar: bool = True
) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Names and records of images in the order named, a batch at a time; the record of an image that could not be read
    holds the reason as ``error``, which is told on standard error too.

    While the caller handles a batch, the devices compute the next one and those after it are decoded. A record names
    the ``top`` most probable classes; ``done`` is how many were predicted earlier, for the ``bar``.
    """
    count = len(names)
    height, width, channels = shape = predictor.image_shape
    size = batch_size(count, shape, predictor.device_count)
    read = lambda name: read_image(name, (height, width), channels)  # noqa: E731
    reading = read_ahead(names, read, shape, size, threads=min(cores(), MAX_THREADS))
    started: deque = deque()
    with (
        quiet(),
        contextlib.closing(reading),
        tqdm(
            total=done + count,
            initial=done,
            desc="predicting",
            unit=" images",
            bar_format=BAR,
            leave=False,
            disable=None if bar else True,  # None: where standard error is no terminal
        ) as shown,
    ):

        def finished() -> list[tuple[str, dict[str, Any]]]:
            batch, answer = started.popleft()
            found = iter(() if answer is None else records(predictor.finish(answer), top))
            told = []
            for place, name in enumerate(batch.names):
                told.append((name, {"error": batch.errors[place]} if place in batch.errors else next(found)))
                if place in batch.errors:
                    tqdm.write(f"{printable(name)}: {printable(batch.errors[place])}", file=sys.stderr)
            sys.stderr.flush()
            shown.update(len(told))
            return told

        for batch in reading:
            started.append((batch, predictor.start(batch.pixels, size) if len(batch.pixels) else None))
            del batch
            if len(started) > 1:
                yield finished()
        while started:
            yield finished()


def batch_size(count: int, shape: tuple[int, int, int], devices: int) -> int:
    """Images in a batch, of ``count`` in all: chosen so that all batches are about equally full."""
    most = max(1, min(BATCH, BATCH_BYTES // math.prod(shape))) * devices
    return -(-count // -(-count // most))


@dataclass(eq=False)
class Batch:
    """Images in the order named: the pixels ``(n, H, W, C)``, uint8, of those that could be read, and why the others
    could not, in a line, by their place in ``names``."""

    names: list[str]
    pixels: np.ndarray
    errors: dict[int, str] = field(default_factory=dict)


def read_ahead(
    names: Iterable[str], read: Callable[[str], np.ndarray], shape: tuple[int, int, int], size: int, *, threads: int
) -> Generator[Batch]:
    """All images in the order named, ``size`` at a time, the last batch smaller.

    At most ``AHEAD + 1`` batches exist here, besides those that the caller keeps. Closing the generator ends the
    threads, which call ``read``: name → ``shape`` uint8. An :class:`ImageError` of it is kept in the batch, anything
    else is raised here.
    """
    names = iter(names)

    def fill(batch: Batch, places: range) -> None:
        for place in places:
            try:
                batch.pixels[place] = read(batch.names[place])
            except ImageError as error:
                batch.errors[place] = " ".join(str(error).split())

    pool = ThreadPoolExecutor(threads)
    waiting: deque[tuple[Batch, list[Future]]] = deque()
    chunk = max(1, min(CHUNK, size // threads))
    try:
        while True:
            while len(waiting) <= AHEAD and (chosen := list(itertools.islice(names, size))):
                # A new array each time: the device may still read from an earlier one.
                batch = Batch(chosen, np.empty((len(chosen), *shape), np.uint8))
                places = (range(start, min(start + chunk, len(chosen))) for start in range(0, len(chosen), chunk))
                waiting.append((batch, [pool.submit(fill, batch, part) for part in places]))
            if not waiting:
                return
            batch, parts = waiting.popleft()
            for part in parts:
                part.result()
            if batch.errors:
                batch.pixels = np.delete(batch.pixels, list(batch.errors), 0)
            yield batch
            del batch  # so that it is freed before another one is allocated
    finally:
        pool.shutdown(cancel_futures=True)
