"""scikit-learn's handwritten digits: 1,797 grey images of 8×8, embedded in the package."""

from fractions import Fraction

import numpy as np

from train.data.split import Dataset, Split, hold_out
from train.errors import missing


def load(image_size: int | None) -> Dataset:
    """Every fifth image of each class is the test split.

    Args:
        image_size: enlarge to a square of this side; ``None`` for 8×8.

    Raises:
        UserError: scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise missing("scikit-learn", "digits") from error
    images, labels = load_digits(return_X_y=True)
    # 17 grey levels, 0 to 16, spread over the 256 of a uint8 image.
    levels = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    if image_size is not None:
        from train.data.images import resize

        levels = np.stack([resize(image, (image_size, image_size)) for image in levels])
    train, test = hold_out(Split(levels, labels.astype(np.int32)), Fraction(1, 5))
    return Dataset(train, test, tuple("0123456789"))
