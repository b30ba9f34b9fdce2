"""``python -m train predict RUN IMAGE…``: class, probability, complexity and depth of images in files."""

import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from train.errors import UserError
from train.records import open_folder, printable
from train.table import line, width

# Images in a batch, and the bytes that a batch's pixels may take if the images are large.
BATCH, BATCH_BYTES = 256, 64 * 2**20


@dataclass(frozen=True)
class Predict:
    """Say what a trained model sees in images: class, probability, complexity in bits and depth in layers.

    Images are converted to grey or colour as those that the model was trained on, scaled to cover their size, and cut
    to it in the middle. Those that cannot be read are named on standard error and the rest are predicted; the exit code
    then is 1.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help_behavior_hint="")]
    """Folder that python -m train left."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...", help_behavior_hint="")]
    """Image files, or folders: all images in them and in the folders below."""
    top: Annotated[int, tyro.conf.arg(metavar="K")] = 1
    """Name the K most probable classes."""
    json: bool = False
    """Print a line of JSON for each image instead of the table."""


def run(options: Predict) -> int:
    """Predict and print, a batch at a time. 0, or 1 if an image could not be read."""
    if options.top < 1:
        raise UserError(f"--top: got {options.top}, expected at least 1")
    if not options.images:
        raise UserError("IMAGE: got none, expected image files or folders of images after the run's folder")
    open_folder(options.run)  # before jax is imported, which takes seconds

    from train.data import padded_batches
    from train.data.images import ImageError, find_images, quiet, read_image
    from train.trained import open_run

    failed = 0

    def fail(path: Path, reason: object) -> None:
        nonlocal failed
        failed += 1
        # One line each, also of a reason that has several.
        print(f"{printable(path)}: {printable(' '.join(str(reason).split()))}", file=sys.stderr, flush=True)

    paths = []
    for path in options.images:
        found = find_images(path)
        if not found:
            fail(path, "no image in this folder")
        paths += found
    if not paths:
        raise UserError("IMAGE: found no image to predict, expected image files or folders of images")
    asked = failed + len(paths)

    trained = open_run(options.run)
    images = trained.images()

    def read(path: Path) -> np.ndarray | ImageError:
        try:
            return read_image(path, images.size, images.channels)
        except ImageError as error:
            return error

    if sys.stderr.isatty():
        print("compiling ...", file=sys.stderr)  # some seconds in which nothing else is to be seen
    predict = predictor(trained.model)
    top = min(options.top, len(images.class_names))
    rows = as_json if options.json else Table(paths, images.class_names, top)
    size = max(1, min(BATCH, BATCH_BYTES // (images.size[0] * images.size[1] * images.channels)))
    with quiet():
        for names, pixels in batches(read_ahead(read, paths, size), size, fail):
            # Filled up to one size for all batches, as every other size would be compiled for.
            filled = next(padded_batches(pixels, size if len(paths) > size else len(pixels)))
            for name, p, h, d in zip(names, *predict(filled), strict=False):
                best = np.argsort(-p, kind="stable")[:top]
                print(rows(name, [(images.class_names[i], float(p[i])) for i in best], float(h), int(d)))
            sys.stdout.flush()
    if failed:
        print(f"{failed:,} of {asked:,} could not be read", file=sys.stderr)
    return 1 if failed else 0


def predictor(model) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """images ``(B, H, W, C)`` uint8 → probabilities ``(B, num_classes)``, complexity in bits ``(B,)``, depth ``(B,)``.

    By :func:`puppet_jax.compile_predict`; a model whose kernels change too fast with H to be interpolated takes the
    exact path, which is slower.
    """
    import jax

    import puppet_jax as pj

    try:
        logits_and_measures = pj.compile_predict(model)
    except ValueError as error:
        print(f"note: on the exact path, which is slower ({error})", file=sys.stderr)
        logits_and_measures = jax.jit(lambda images: (model(images), *model.measure(images)))

    def predict(images):
        logits, complexity, depth = (np.asarray(column) for column in logits_and_measures(images))
        if not np.isfinite(logits).all():
            raise UserError("RUN: the model's answers are no numbers, its parameters are of no use; train again")
        shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
        return shifted / shifted.sum(-1, keepdims=True), complexity, depth

    return predict


def read_ahead(read: Callable, paths: Iterable[Path], ahead: int) -> Iterator[tuple[Path, object]]:
    """``(path, read(path))`` in the order given, read by several threads, at most ``ahead`` of them in advance."""
    pool = ThreadPoolExecutor(os.cpu_count())
    waiting: deque = deque()
    try:
        for path in paths:
            waiting.append((path, pool.submit(read, path)))
            if len(waiting) > ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def batches(images: Iterable[tuple[Path, object]], size: int, fail: Callable[[Path, object], None]):
    """Images gathered into batches of ``size``, the last one smaller; what is no array is handed to ``fail``.

    Yields:
        paths, and images ``(size, H, W, C)``.
    """
    names: list[Path] = []
    pixels: list[np.ndarray] = []
    for path, image in images:
        if not isinstance(image, np.ndarray):
            fail(path, image)
            continue
        names.append(path)
        pixels.append(image)
        if len(names) == size:
            yield names, np.stack(pixels)
            names, pixels = [], []
    if names:
        yield names, np.stack(pixels)


def as_json(path: Path, best: Sequence[tuple[str, float]], complexity: float, depth: int) -> str:
    """A line of JSON; ``top`` holds the K most probable classes, the first of which is ``class``."""
    return json.dumps(
        {
            "image": str(path),
            "class": best[0][0],
            "probability": best[0][1],
            "complexity_bits": complexity,
            "depth": depth,
            "top": [{"class": name, "probability": probability} for name, probability in best],
        },
        allow_nan=False,
    )


class Table:
    """Lines of a table, under a header before the first; as wide as the longest path and class can be."""

    def __init__(self, paths: Sequence[Path], class_names: Sequence[str], top: int):
        classes = max([width(printable(name)) for name in class_names] + [len("class")])
        header, self.widths, self.right = ["image"], [max([width(printable(p)) for p in paths] + [5])], [False]
        for k in range(top):
            header += ["class" if k == 0 else f"class {k + 1}", "probability"]
            self.widths += [max(classes, width(header[-2])), len("probability")]
            self.right += [False, True]
        header += ["complexity", "depth"]
        self.widths += [len("complexity"), len("depth")]
        self.right += [True, True]
        self.header = line(header, self.widths, self.right) + "\n"

    def __call__(self, path: Path, best: Sequence[tuple[str, float]], complexity: float, depth: int) -> str:
        cells = [printable(path)]
        for name, probability in best:
            cells += [printable(name), f"{probability:.1%}"]
        cells += [f"{complexity:.2f} bits", str(depth)]
        header, self.header = self.header, ""
        return header + line(cells, self.widths, self.right)
