"""The order in which a run visits its training images, and the batches, prepared ahead."""

import math
from collections.abc import Generator, Iterator

import numpy as np

from train.data.ahead import in_order
from train.data.split import Split

# Batches prepared ahead, by one thread: more would only contend for the interpreter.
PREFETCH = 8

Batch = tuple[np.ndarray, np.ndarray]


def train_batches(
    split: Split,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    stop_step: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[Batch]:
    """The batches of steps ``start_step`` to ``stop_step - 1``, prepared ahead by a thread.

    With n = :func:`steps_per_epoch`, the batch of step k is the ``k % n``-th piece of a permutation that only the seed
    and the epoch, ``k // n + 1``, decide, so a run resumes at a step by its number. An epoch's last batch is filled up
    with the first images of its permutation, so that every image is seen and all batches have one shape.

    Yields:
        of each batch, its ``process_index``-th of ``process_count`` equal parts: images ``(batch_size / process_count,
        H, W, C)`` uint8 and labels int32. Close the generator, or exhaust it, to end its thread.
    """
    own = batch_size // process_count
    rows = _rows(len(split), batch_size, seed, start_step, stop_step)
    parts = (batch[process_index * own : (process_index + 1) * own] for batch in rows)
    return in_order(lambda part: (split.images[part], split.labels[part]), parts, threads=1, ahead=PREFETCH)


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Batches that show every image."""
    return math.ceil(images / batch_size)


def _rows(count: int, batch_size: int, seed: int, start_step: int, stop_step: int) -> Iterator[np.ndarray]:
    per_epoch = steps_per_epoch(count, batch_size)
    order = np.empty(0, int)
    for step in range(start_step, stop_step):
        epoch, place = divmod(step, per_epoch)
        if place == 0 or step == start_step:
            order = np.random.default_rng((seed, epoch + 1)).permutation(count)
            order = np.resize(order, per_epoch * batch_size)  # repeats it from its beginning
        yield order[place * batch_size : (place + 1) * batch_size]


def padded_batches(array: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """All rows in order, the last batch padded with copies of its last row; cut results off at ``len(array)``."""
    for start in range(0, len(array), batch_size):
        batch = array[start : start + batch_size]
        short = batch_size - len(batch)
        # A copy of a real image, not a blank one, so that nothing computes on values that the data does not hold.
        yield np.concatenate([batch, np.repeat(batch[-1:], short, axis=0)]) if short else batch
