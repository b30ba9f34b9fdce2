"""Images and labels as arrays in memory, and the order in which an epoch visits them."""

import importlib.util
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from train.errors import UserError


@dataclass(frozen=True)
class Split:
    """Images ``(N, H, W, C)`` uint8 and their labels ``(N,)`` int32."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A training split, the split that is reported on, and how many classes there are."""

    train: Split
    test: Split
    class_names: tuple[str, ...]
    skipped: tuple = ()

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def load(
    name: str,
    data_dir: Path | None,
    evaluate_on: str,
    *,
    image_size: int | None = None,
    validation_share: float = 0.1,
) -> Dataset:
    """Read a data set into memory.

    Args:
        name: ``"digits"`` or ``"cifar10"``.
        data_dir: where TensorFlow Datasets looks; ``None`` for its own default. Not used by digits.
        evaluate_on: ``"test"``, or ``"validation"`` to hold out a tenth of the training split in its place.

    Raises:
        UserError: the set or a package that reads it is missing, or the set cannot be read.
    """
    train, test = _digits() if name == "digits" else _cifar10(data_dir)
    if evaluate_on == "validation":
        train, test = every_nth(train, 10)
    return Dataset(train, test, tuple("0123456789"))


def every_nth(split: Split, n: int) -> tuple[Split, Split]:
    """Set aside every n-th image of each class: stratified, and the same in every run and library version.

    Returns:
        ``(kept, set aside)``, both in their old order.
    """
    aside = np.zeros(len(split), bool)
    for label in np.unique(split.labels):
        aside[np.flatnonzero(split.labels == label)[n - 1 :: n]] = True
    return (
        Split(split.images[~aside], split.labels[~aside]),
        Split(split.images[aside], split.labels[aside]),
    )


def batches(split: Split, batch_size: int, *, seed: int, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One epoch of training batches in an order that only ``seed`` and ``epoch`` decide.

    The images left over after the last full batch wait for another epoch, so that every batch has one shape.

    Yields:
        images ``(batch_size, H, W, C)`` uint8 and labels ``(batch_size,)`` int32.
    """
    order = np.random.default_rng((seed, epoch)).permutation(len(split))
    for start in range(0, len(split) - batch_size + 1, batch_size):
        chosen = order[start : start + batch_size]
        yield split.images[chosen], split.labels[chosen]


def train_batches(
    split: Split, batch_size: int, *, seed: int, start_step=0, stop_step: int, process_index=0, process_count=1
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Global batches ``start_step`` to ``stop_step`` - 1, each a process's own rows."""
    own = slice(process_index * batch_size // process_count, (process_index + 1) * batch_size // process_count)
    per_epoch = len(split) // batch_size
    step = start_step
    while step < stop_step:
        epoch, skip = divmod(step, per_epoch)
        for index, (images, labels) in enumerate(batches(split, batch_size, seed=seed, epoch=epoch + 1)):
            if index >= skip and step < stop_step:
                yield images[own], labels[own]
                step += 1


def padded_batches(array: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """All rows in order, the last batch filled up by repeating its last row; cut results off at ``len(array)``."""
    for start in range(0, len(array), batch_size):
        batch = array[start : start + batch_size]
        missing = batch_size - len(batch)
        # A repeated real image rather than a blank one: nothing then meets values that the data does not hold.
        yield np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)]) if missing else batch


def _digits() -> tuple[Split, Split]:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise UserError(_missing_package("digits", "scikit-learn")) from error
    images, labels = load_digits(return_X_y=True)
    # 17 grey levels, 0 to 16, spread over the 256 of a uint8 image.
    levels = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    return every_nth(Split(levels, labels.astype(np.int32)), 5)


def _cifar10(data_dir: Path | None) -> tuple[Split, Split]:
    try:
        import tensorflow_datasets as tfds
        from absl import logging
    except ModuleNotFoundError as error:
        raise UserError(_missing_package("cifar10", "tensorflow-datasets")) from error
    logging.set_verbosity(logging.ERROR)  # it recommends OpenCV for decoding; Pillow does

    directory = data_dir or Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    directory = directory.expanduser().absolute()
    # data_source would begin to download at this point, with minutes of retries where there is no network. What a
    # user has not asked for is not downloaded: the message says how to.
    if not any(directory.glob("cifar10/*/dataset_info.json")):
        raise UserError(_not_prepared(directory))
    try:
        sources = tfds.data_source("cifar10", split=["train", "test"], data_dir=directory, download=False)
        return _decode(sources[0]), _decode(sources[1])
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        raise UserError(
            f"--data cifar10: {directory / 'cifar10'} cannot be read ({type(error).__name__}: {reason[0]}). It must "
            f"be prepared in the array_record format: remove it and prepare it again.\n{_how_to_prepare(directory)}"
        ) from error


def _decode(source) -> Split:
    """Decode every image once: 0.3 ms each, 150 MB for 50,000, instead of once an epoch."""
    images = np.empty((len(source), 32, 32, 3), np.uint8)
    labels = np.empty(len(source), np.int32)

    def decode(start: int) -> None:
        for i in range(start, min(start + 1000, len(source))):
            record = source[i]
            images[i], labels[i] = record["image"], record["label"]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(decode, range(0, len(source), 1000)))
    return Split(images, labels)


def _missing_package(data: str, package: str) -> str:
    return (
        f"--data {data}: the Python package {package} is missing, expected it to be installed; "
        'install the trainer\'s packages with: pip install ".[train]"'
    )


def _not_prepared(directory: Path) -> str:
    return (
        f"--data cifar10: no prepared CIFAR-10 in {directory}. If it lies elsewhere, point --data-dir or the "
        f"environment variable TFDS_DATA_DIR to the folder that holds cifar10/.\n{_how_to_prepare(directory)}"
    )


def _how_to_prepare(directory: Path) -> str:
    # What TensorFlow Datasets needs to prepare a set but neither to read one nor, on this Python, to be installed.
    needed = [name for name in ("tensorflow", "importlib_resources") if importlib.util.find_spec(name) is None]
    install = f"    pip install {' '.join(needed)}\n" if needed else ""
    missing = f" and needs {' and '.join(needed)}, missing here (training does not need them)" if needed else ""
    return (
        f"Preparing it once downloads 163 MB{missing}:\n{install}"
        f'    python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('cifar10', data_dir=r'{directory}', file_format='array_record').download_and_prepare()\""
    )
