"""What tells one data set from another, wherever it lies: a run goes on with the images that it began with."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from train.data.split import Dataset

# Images of each split whose pixels are looked at, evenly over it.
LOOKED_AT = 1024


def fingerprint(dataset: Dataset) -> dict[str, Any]:
    """Sizes, classes, labels in their order, and pixels of some images."""
    return {
        "train_images": len(dataset.train),
        "test_images": len(dataset.test),
        "image_shape": list(dataset.train.images.shape[1:]),
        "class_names": list(dataset.class_names),
        "labels": zlib.crc32(dataset.train.labels.tobytes()),
        "pixels": _pixels(dataset),
    }


def differences(dataset: Dataset, recorded: Mapping[str, Any]) -> list[str]:
    """What is not as it was recorded, in words; what was not recorded is not compared."""
    return [
        f"{name} {value}, was {recorded[name]}"
        for name, value in fingerprint(dataset).items()
        if name in recorded and value != recorded[name]
    ]


def _pixels(dataset: Dataset) -> int:
    total = 0
    for split in (dataset.train, dataset.test):
        for row in np.unique(np.linspace(0, len(split) - 1, LOOKED_AT).astype(int)):
            total = zlib.crc32(np.ascontiguousarray(split.images[row]).tobytes(), total)
    return total
