"""Crops and flips against NumPy loops, and what must not change."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.config import Augmentation
from train.steps.augment import augment, crop, flip

HEIGHT, WIDTH = 12, 16


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def keys_of(seed, count):
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.parametrize("offset", [(0, 0), (8, 8), (4, 4), (0, 8), (3, 6)])
def test_crop_is_a_window_of_the_image_mirrored_at_its_border(image, offset):
    inside = lambda i, size: size - 1 - abs(size - 1 - abs(i))  # noqa: E731
    rows, columns = ([inside(i + o - 4, n) for i in range(n)] for o, n in zip(offset, (HEIGHT, WIDTH), strict=True))
    expected = image[rows][:, columns]
    got = crop(image, jnp.array(offset), 4)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, expected)


def test_flip_mirrors_columns_if_told(image):
    np.testing.assert_array_equal(flip(image, jnp.array(True)), np.fliplr(image))
    np.testing.assert_array_equal(flip(image, jnp.array(False)), image)


augmented = jax.jit(augment, static_argnums=2)


@pytest.mark.parametrize("kind", get_args(Augmentation))
@given(seed=st.integers(0, 2**31), order=st.permutations(range(6)), size=st.sampled_from([1, 2, 3]))
def test_what_becomes_of_an_image_does_not_depend_on_its_batch(kind, seed, order, size):
    images = np.random.default_rng(seed).integers(0, 256, (6, HEIGHT, WIDTH, 3)).astype(np.uint8)
    keys = keys_of(seed, 6)
    together = np.asarray(augmented(images, keys, kind))
    order = np.array(order)
    # In another order, and in smaller batches, as on several devices.
    np.testing.assert_array_equal(augmented(images[order], keys[order], kind), together[order])
    parts = [augmented(images[i : i + size], keys[i : i + size], kind) for i in range(0, 6, size)]
    np.testing.assert_array_equal(np.concatenate(parts), together)
    # Beside other images with other keys.
    others = images.copy()
    others[1:] = 255 - others[1:]
    changed = jnp.concatenate([keys[:1], keys_of(seed + 1, 5)])
    np.testing.assert_array_equal(augmented(others, changed, kind)[0], together[0])


def test_draws_cover_all_offsets_and_both_sides_and_follow_the_key():
    # One bright pixel in the middle of 32×32: where it ends up tells the offset.
    images = np.zeros((4000, 32, 32, 1), np.uint8)
    images[:, 10, 16] = 255
    got = np.asarray(augmented(images, keys_of(3, 4000), "flip-crop"))
    _, rows, columns, _ = np.nonzero(got)
    assert sorted(set(rows)) == list(range(6, 15))
    # From columns 12..20; mirrored, from 31 - 20..31 - 12.
    assert sorted(set(columns)) == list(range(11, 21))
    assert 0.04 < np.mean(columns == 11) < 0.07  # a half times a ninth
    np.testing.assert_array_equal(got, augmented(images, keys_of(3, 4000), "flip-crop"))
    assert (got != augmented(images, keys_of(4, 4000), "flip-crop")).any()


def test_a_kind_does_what_it_says_and_no_more(image):
    images = np.repeat(image[None], 400, 0)
    assert augment(images, keys_of(0, 400), "none") is images
    got = np.asarray(augmented(images, keys_of(0, 400), "flip"))
    mirrored = (got == images[:, :, ::-1]).all((1, 2, 3))
    assert (mirrored | (got == images).all((1, 2, 3))).all()
    assert 0.4 < mirrored.mean() < 0.6
    images = np.zeros((500, 8, 8, 1), np.uint8)
    images[:, :, :3] = 255  # stays on the left whatever the offset of at most one pixel: crop never mirrors
    assert not np.asarray(augmented(images, keys_of(0, 500), "crop"))[:, :, 4:].any()
