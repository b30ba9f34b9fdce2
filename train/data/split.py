"""Data sets and their splits, what tells one from another, and the rule by which images are held out of a split."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from train.data import store


@dataclass(frozen=True)
class Split:
    """Images ``(N, H, W, C)`` uint8, in memory or mapped from a file, and their labels ``(N,)`` int32."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Skipped:
    """An image that is not in the data set: its path (or its place in a prepared set), and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Dataset:
    """A training split, the split that is reported on, the classes by label, what could not be read, and how the second
    split came about where the data have none."""

    train: Split
    test: Split
    class_names: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    note: str = ""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def fingerprint(dataset: Dataset) -> dict[str, Any]:
    """Sizes, classes, and check sums of all labels and pixels in their order."""
    splits = dataset.train, dataset.test
    return {
        "train_images": len(dataset.train),
        "test_images": len(dataset.test),
        "image_shape": list(dataset.train.images.shape[1:]),
        "class_names": list(dataset.class_names),
        "all_labels": _check_sum([split.labels for split in splits]),
        "all_pixels": _check_sum([split.images for split in splits]),
    }


def differences(dataset: Dataset, recorded: Mapping[str, Any]) -> list[str]:
    """What is not as it was recorded, in words; what was not recorded is not compared."""
    return [
        f"{name} {value}, was {recorded[name]}"
        for name, value in fingerprint(dataset).items()
        if name in recorded and value != recorded[name]
    ]


def _check_sum(arrays: list[np.ndarray]) -> int:
    """Of the check sums of pieces of 16 MiB, so that an array may be larger than memory."""
    sums = b""
    for array in arrays:
        count = max(1, 2**24 // max(1, array[:1].nbytes))
        for start in range(0, len(array), count):
            sums += zlib.crc32(np.ascontiguousarray(array[start : start + count]).data).to_bytes(4, "big")
    return zlib.crc32(sums)


def held_out(labels: np.ndarray, every: int = 10) -> np.ndarray:
    """Which images are set aside: every tenth of each class, or of another number.

    Stratified, and the same in every run, on every machine, with every version of a library. A class of fewer gives
    its last, unless that is all that it has.

    Labels ``(N,)``, integers, to bool ``(N,)``.
    """
    aside = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        aside[rows[every - 1 :: every]] = True
        aside[rows[-1]] |= 1 < len(rows) < every
    return aside


def class_weights(split: Split, classes: int) -> np.ndarray:
    """The weight of each class's images that makes classes count alike, ``(C,)`` float32: N / (C n_c) of N images in C
    classes that have any, n_c in each ("balanced" of scikit-learn). The mean over all images is one."""
    counts = np.bincount(split.labels, minlength=classes)
    return (len(split) / np.count_nonzero(counts) / np.maximum(counts, 1)).astype(np.float32)


def set_aside(aside: int, images: int) -> str:
    """The note on a data set without a test part."""
    return f"no test part: {aside:,} of {images:,} images, a tenth of each class, are set aside and called test"


def hold_out(split: Split, every: int = 10) -> tuple[Split, Split]:
    """``(kept, set aside)`` by :func:`held_out`, both in their old order."""
    aside = held_out(split.labels, every)
    kept, taken = (Split(store.take(split.images, np.flatnonzero(x)), split.labels[x]) for x in (~aside, aside))
    return kept, taken
