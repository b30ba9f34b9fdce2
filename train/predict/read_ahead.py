"""Images decoded ahead by threads, straight into the batches that a model takes."""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

# Batches that are decoded while another one is with the model.
AHEAD = 2
# Images that a thread takes at a time: passing them singly would cost as much as decoding small ones.
CHUNK = 64


@dataclass(eq=False)
class Batch:
    """Images in the order named.

    Attributes:
        names: of all of them.
        pixels: of those that could be read, ``(n, H, W, C)`` uint8.
        errors: why the others could not, by their place in ``names``.
    """

    names: list[str]
    pixels: np.ndarray
    errors: dict[int, Exception] = field(default_factory=dict)


def read_ahead(
    names: Iterable[str],
    read: Callable[[str], np.ndarray],
    shape: tuple[int, int, int],
    size: int,
    *,
    threads: int,
    refused: type[Exception],
) -> Generator[Batch]:
    """All images in the order named, ``size`` at a time, the last batch smaller.

    At most ``AHEAD + 1`` batches exist here, besides those that the caller keeps. Closing the generator ends the
    threads, each after its current image.

    Args:
        names: taken from as they are needed.
        read: name → ``shape`` uint8; called from the threads.
        threads: how many.
        refused: what ``read`` raises for an image that cannot be read; anything else is raised here.
    """
    names = iter(names)
    stop = threading.Event()

    def fill(batch: Batch, places: range) -> None:
        for place in places:
            if stop.is_set():
                return
            try:
                batch.pixels[place] = read(batch.names[place])
            except refused as error:
                batch.errors[place] = error

    def begin() -> bool:
        chosen = list(itertools.islice(names, size))
        if not chosen:
            return False
        # A new array each time: the device may still read from an earlier one.
        batch = Batch(chosen, np.empty((len(chosen), *shape), np.uint8))
        chunk = max(1, min(CHUNK, size // threads))
        parts = (range(start, min(start + chunk, len(chosen))) for start in range(0, len(chosen), chunk))
        waiting.append((batch, [pool.submit(fill, batch, part) for part in parts]))
        return True

    pool = ThreadPoolExecutor(threads)
    waiting: deque[tuple[Batch, list[Future]]] = deque()
    try:
        while True:
            while len(waiting) <= AHEAD and begin():
                pass
            if not waiting:
                return
            batch, parts = waiting.popleft()
            for part in parts:
                part.result()
            if batch.errors:
                batch.pixels = batch.pixels[[place not in batch.errors for place in range(len(batch.names))]]
            yield batch
            del batch  # so that it is freed before another one is allocated
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
