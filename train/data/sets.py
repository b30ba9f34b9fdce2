"""The data set that ``--data`` names."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from train.data import tensorflow_sets
from train.data.split import Dataset, Split, hold_out
from train.errors import UserError


def load(name: str, evaluate_on: str, *, image_size: int | None = None) -> Dataset:
    """Read a data set and decode its images once, into memory or, where they do not fit, a file mapped into it.

    Args:
        name: ``"digits"``; an image classification set of TensorFlow Datasets that lies prepared
            (:mod:`train.data.tensorflow_sets`); or a folder of class folders of images (:mod:`train.data.folder`). A
            prepared set goes before a folder of the same name: write ``./mnist`` for the folder.
        evaluate_on: ``"test"``, or ``"validation"`` to hold out a tenth of the training split in its place.
        image_size: scale every image to a square of this side (:func:`train.data.images.resize`); ``None`` as
            :func:`train.data.decode.decode` chooses.

    Raises:
        UserError: there is no such set, a package that reads it is missing, or it cannot be used as it is.
    """
    dataset = _find(name, image_size)
    if evaluate_on == "validation":
        train, test = hold_out(dataset.train)
        dataset = dataclasses.replace(dataset, train=train, test=test)
    for split in (dataset.train, dataset.test):
        if len(split) == 0:
            raise UserError(
                f"--data {name}: {len(dataset.train)} images to train on and {len(dataset.test)} to evaluate on, "
                "expected some of each; of a class of two or more, one in ten is set aside, at least one"
            )
    return dataset


def located(name: str) -> str:
    """``name``, the path of a folder made absolute, so that it is found from another working directory too."""
    if name == "digits" or tensorflow_sets.is_prepared(name):
        return name
    folder = Path(os.path.expanduser(name))
    return str(folder.resolve()) if folder.exists() else name


def _find(name: str, image_size: int | None) -> Dataset:
    # Imported where used: each brings packages of its own.
    if name == "digits":
        return _digits(image_size)
    if tensorflow_sets.is_prepared(name):
        return tensorflow_sets.load(name, image_size)
    folder = Path(os.path.expanduser(name))
    if folder.exists():
        from train.data import folder as folders

        return folders.load(folder, image_size)
    raise tensorflow_sets.absent(name)


def _digits(image_size: int | None) -> Dataset:
    """scikit-learn's handwritten digits: 1,797 grey images of 8x8; every fifth of each class is the test split."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    # 17 grey levels, 0 to 16, spread over the 256 of a uint8 image.
    levels = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    if image_size is not None:
        from train.data.images import resize

        levels = np.stack([resize(image, (image_size, image_size)) for image in levels])
    train, test = hold_out(Split(levels, labels.astype(np.int32)), every=5)
    return Dataset(train, test, tuple("0123456789"))
