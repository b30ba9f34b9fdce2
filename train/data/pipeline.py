"""The order in which a run visits its training images, and the batches, prepared ahead."""

import functools
from collections.abc import Generator, Iterator

import numpy as np

from train.data.packages import missing
from train.data.split import Split
from train.errors import UserError

# Batches prepared ahead, by one thread: more would only contend for the interpreter.
PREFETCH = 8

Batch = tuple[np.ndarray, np.ndarray]


def epoch_order(count: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch's images: a permutation of ``count`` that only ``seed`` and ``epoch`` decide."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def batches(split: Split, batch_size: int, *, seed: int, epoch: int) -> Iterator[Batch]:
    """One epoch of training batches.

    Images left over after the last full batch are not used in this epoch, so that all batches have one shape.

    Yields:
        images ``(batch_size, H, W, C)`` uint8 and labels ``(batch_size,)`` int32.
    """
    order = epoch_order(len(split), seed=seed, epoch=epoch)
    for start in range(0, len(split) - batch_size + 1, batch_size):
        chosen = order[start : start + batch_size]
        yield split.images[chosen], split.labels[chosen]


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

    With ``n = len(split) // batch_size`` steps an epoch, the batch of step k is the ``k % n``-th of epoch
    ``k // n + 1`` (epochs count from 1) of :func:`batches`. It depends on the seed and k alone, so a run resumes at a
    step by its number.

    Args:
        batch_size: of all processes together.
        start_step: the first step wanted, counted from 0.
        stop_step: the step after the last.
        process_index: which of ``process_count`` equal parts of each batch, its rows in a piece, to give.

    Yields:
        images ``(batch_size / process_count, H, W, C)`` uint8 and labels. Close the generator, or exhaust it, to end
        its thread.

    Raises:
        UserError: batches larger than the split, or not divisible by the processes; or grain is missing.
    """
    if not 1 <= batch_size <= len(split):
        raise UserError(f"--batch-size: got {batch_size}, expected at most the {len(split)} training images")
    if batch_size % process_count:
        raise UserError(f"--batch-size: got {batch_size}, expected a multiple of the {process_count} processes")
    try:
        import grain  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing("grain") from error
    steps = _Steps(split, batch_size, seed, range(start_step, stop_step), process_index, process_count)
    return _prefetched(steps)


class _Steps:
    """The batches of a range of steps, as a random-access source for grain."""

    def __init__(self, split: Split, batch_size: int, seed: int, steps: range, process_index: int, process_count: int):
        self.split, self.steps = split, steps
        self.batch_size = batch_size
        self.per_epoch = len(split) // batch_size
        self.part = slice(
            process_index * batch_size // process_count, (process_index + 1) * batch_size // process_count
        )
        # Two: the order in use, and the next one where an epoch ends.
        self.order = functools.lru_cache(maxsize=2)(lambda epoch: epoch_order(len(split), seed=seed, epoch=epoch))

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, place: int) -> Batch:
        epoch, index = divmod(self.steps[place], self.per_epoch)
        start = index * self.batch_size
        chosen = self.order(epoch + 1)[start : start + self.batch_size][self.part]
        return self.split.images[chosen], self.split.labels[chosen]


def _prefetched(steps: _Steps) -> Generator[Batch]:
    import grain

    if len(steps) == 0:
        return
    # An element is a whole batch, so that grain's overhead is paid once a batch, not once an image.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=PREFETCH)
    iterator = iter(grain.MapDataset.source(steps).to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()


def padded_batches(array: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """All rows in order, the last batch padded with copies of its last row; cut results off at ``len(array)``."""
    for start in range(0, len(array), batch_size):
        batch = array[start : start + batch_size]
        short = batch_size - len(batch)
        # A copy of a real image, not a blank one, so that nothing computes on values that the data does not hold.
        yield np.concatenate([batch, np.repeat(batch[-1:], short, axis=0)]) if short else batch
