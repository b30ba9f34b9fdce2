"""Crops and flips against NumPy. What is drawn for each image: see test_train_by_hand.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.steps.augment import augment, crop

HEIGHT, WIDTH = 12, 16


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


@pytest.mark.parametrize("offset", [(0, 0), (8, 8), (4, 4), (0, 8), (3, 6)])
def test_crop_is_a_window_of_the_image_mirrored_at_its_border(image, offset):
    inside = lambda i, size: size - 1 - abs(size - 1 - abs(i))  # noqa: E731
    rows, columns = ([inside(i + o - 4, n) for i in range(n)] for o, n in zip(offset, (HEIGHT, WIDTH), strict=True))
    expected = image[rows][:, columns]
    got = crop(image, jnp.array(offset), 4)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, expected)


def test_a_kind_does_what_it_says_and_no_more(image):
    keys = jax.random.split(jax.random.key(0), 400)
    images = np.repeat(image[None], 400, 0)
    assert augment(images, keys, "none") is images
    got = np.asarray(augment(images, keys, "flip"))
    mirrored = (got == images[:, :, ::-1]).all((1, 2, 3))
    assert (mirrored | (got == images).all((1, 2, 3))).all()
    assert 0.4 < mirrored.mean() < 0.6
    images = np.zeros((400, 8, 8, 1), np.uint8)
    images[:, :, :3] = 255  # stays on the left whatever the offset of at most one pixel: crop never mirrors
    assert not np.asarray(augment(images, keys, "crop"))[:, :, 4:].any()
