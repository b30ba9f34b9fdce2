"""Files of images to what a model says of them, while later images are being read and decoded."""

import contextlib
import itertools
import math
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from train.data.ahead import in_order
from train.data.decode import MAX_THREADS, cores
from train.data.images import ImageError, quiet, read_image
from train.predict.predictor import Predictor, records
from train.terminal import printable

# Images in a device's batch, and the most bytes that its pixels take, which limits batches of large images.
BATCH, BATCH_BYTES = 256, 64 * 2**20
# Batches that are decoded while another one is with the model.
AHEAD = 2
BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}, {rate_fmt}, {remaining} left"


def predict_images(
    names: Sequence[str], predictor: Predictor, top: int, *, done: int = 0, bar: bool = True
) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Names and records of images in the order named, a batch at a time; the record of an image that could not be read
    holds the reason as ``error``, which is told on standard error too.

    While the devices compute a batch and the caller handles it, those after it are decoded. A record names the ``top``
    most probable classes; ``done`` is how many were predicted earlier, for the ``bar``.
    """
    count = len(names)
    height, width, channels = shape = predictor.image_shape
    size = batch_size(count, shape, predictor.device_count)
    read = lambda name: read_image(name, (height, width), channels)  # noqa: E731
    reading = read_ahead(names, read, size, threads=min(cores(), MAX_THREADS))
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
        for chosen, images in reading:
            pixels = [each for each in images if not isinstance(each, str)]
            found = iter(records(predictor(np.stack(pixels), size), top) if pixels else ())
            told = []
            for name, image in zip(chosen, images, strict=True):
                told.append((name, {"error": image} if isinstance(image, str) else next(found)))
                if isinstance(image, str):
                    tqdm.write(f"{printable(name)}: {printable(image)}", file=sys.stderr)
            sys.stderr.flush()
            shown.update(len(told))
            yield told


def batch_size(count: int, shape: tuple[int, int, int], devices: int) -> int:
    """Images in a batch, of ``count`` in all: chosen so that all batches are about equally full."""
    most = max(1, min(BATCH, BATCH_BYTES // math.prod(shape))) * devices
    return -(-count // -(-count // most))


def read_ahead(
    names: Sequence[str], read: Callable[[str], np.ndarray], size: int, *, threads: int
) -> Generator[tuple[Sequence[str], list[np.ndarray | str]]]:
    """All images in the order named, ``size`` at a time, the last time fewer: their names, and of each what ``read``
    gives, or in a line why it could not be read.

    About ``AHEAD + 1`` batches exist here, besides those that the caller keeps. Closing the generator ends the
    threads, which call ``read``. Another error of it than :class:`ImageError` is raised here.
    """

    def one(name: str) -> np.ndarray | str:
        try:
            return read(name)
        except ImageError as error:
            return " ".join(str(error).split())

    done = in_order(one, names, threads=threads, ahead=AHEAD * size)
    with contextlib.closing(done):
        for start in range(0, len(names), size):
            chosen = names[start : start + size]
            yield chosen, list(itertools.islice(done, len(chosen)))
