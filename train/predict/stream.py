"""Files of images to a model's outputs, while later images are being read and decoded."""

import contextlib
import sys
from collections import deque
from collections.abc import Iterable, Iterator

from tqdm import tqdm

from train.data.decode import cores
from train.data.images import ImageError, quiet, read_image
from train.predict.predictor import Outputs, Predictor
from train.predict.read_ahead import Batch, read_ahead
from train.runs.trained import Images
from train.terminal import printable

# Images in a device's batch, and the most bytes that its pixels take, which limits batches of large images.
BATCH, BATCH_BYTES = 256, 64 * 2**20
# More threads would wait for the interpreter.
MOST_THREADS = 8
BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}, {rate_fmt}, {remaining} left"


def predict_images(
    names: Iterable[str], count: int, images: Images, predictor: Predictor, *, done: int = 0, bar: bool = True
) -> Iterator[tuple[Batch, Outputs | None]]:
    """Batches of images in the order named, each with the model's outputs for those of them that could be read, or
    ``None`` if none could.

    While the caller handles a batch, the devices compute the next one and those after it are decoded. Images that could
    not be read are named on standard error, where a progress bar is shown if that is a terminal.

    Args:
        names: paths of the images.
        count: how many there are.
        images: the size and channels that they are converted to.
        predictor: of the model.
        done: how many were predicted earlier, for the bar.
        bar: whether to show one.
    """
    if not count:
        return
    size = batch_size(count, images, predictor.device_count)
    reading = read_ahead(
        names,
        lambda name: read_image(name, images.size, images.channels),
        (*images.size, images.channels),
        size,
        threads=min(cores(), MOST_THREADS),
        refused=ImageError,
    )
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

        def finished() -> tuple[Batch, Outputs | None]:
            batch, answer = started.popleft()
            for place in sorted(batch.errors):
                report_unreadable(batch.names[place], batch.errors[place])
            found = None if answer is None else predictor.finish(answer)
            shown.update(len(batch.names))
            return batch, found

        for batch in reading:
            started.append((batch, predictor.start(batch.pixels, size) if len(batch.pixels) else None))
            del batch
            if len(started) > 1:
                yield finished()
        while started:
            yield finished()


def batch_size(count: int, images: Images, devices: int) -> int:
    """Images in a batch, of ``count`` in all: chosen so that all batches are about equally full."""
    most = max(1, min(BATCH, BATCH_BYTES // (images.size[0] * images.size[1] * images.channels))) * devices
    return -(-count // -(-count // most))


def report_unreadable(name: str, reason: object) -> None:
    """Name a file that could not be read on standard error, above the bar if there is one."""
    tqdm.write(f"{printable(name)}: {printable(one_line(reason))}", file=sys.stderr)
    sys.stderr.flush()


def one_line(reason: object) -> str:
    """A reason in one line, also if it has several."""
    return " ".join(str(reason).split())
