"""What tells one data set from another, wherever it lies: a run goes on with the images that it began with."""

import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from train.data.decode import MAX_THREADS, cores
from train.data.split import Dataset

# Bytes that a thread takes at a time.
PIECE = 2**24


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
    """Of the check sums of pieces, as several threads compute them."""

    def of_rows(piece: tuple[np.ndarray, int, int]) -> bytes:
        array, start, count = piece
        return zlib.crc32(np.ascontiguousarray(array[start : start + count]).data).to_bytes(4, "big")

    pieces = []
    for array in arrays:
        count = max(1, PIECE // max(1, array[:1].nbytes))
        pieces += [(array, start, count) for start in range(0, len(array), count)]
    with ThreadPoolExecutor(min(cores(), MAX_THREADS)) as pool:
        return zlib.crc32(b"".join(pool.map(of_rows, pieces)))
