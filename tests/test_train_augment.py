"""Crops and flips against NumPy loops, and what must not change."""

import jax
import numpy as np
import pytest

from train.augment import augment, crop, flip


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (7, 12, 16, 3)).astype(np.uint8)


def test_crop_is_a_window_of_the_padded_image(images):
    offsets = np.random.default_rng(1).integers(0, 9, (7, 2))
    offsets[:4] = [[0, 0], [8, 8], [4, 4], [0, 8]]
    expected = np.zeros_like(images)
    for n, (down, right) in enumerate(offsets):
        for row in range(12):
            for column in range(16):
                r, c = row + down - 4, column + right - 4
                if 0 <= r < 12 and 0 <= c < 16:
                    expected[n, row, column] = images[n, r, c]
    got = crop(images, offsets, 4)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, expected)


def test_flip_mirrors_columns_of_the_chosen_images(images):
    mirrored = np.array([True, False, True, True, False, False, True])
    got = np.asarray(flip(images, mirrored))
    for n in range(len(images)):
        np.testing.assert_array_equal(got[n], np.fliplr(images[n]) if mirrored[n] else images[n])


def test_none_changes_nothing(images):
    assert augment(images, jax.random.key(0), "none") is images


def test_draws_cover_all_offsets_and_both_sides_and_follow_the_key():
    # One bright pixel in the middle of 32×32: where it ends up tells the offset.
    images = np.zeros((4000, 32, 32, 1), np.uint8)
    images[:, 10, 16] = 255
    got = np.asarray(augment(images, jax.random.key(3), "flip-crop"))
    _, rows, columns, _ = np.nonzero(got)
    assert sorted(set(rows)) == list(range(6, 15))
    # From columns 12..20; mirrored, from 31 - 20..31 - 12.
    assert sorted(set(columns)) == list(range(11, 21))
    assert 0.04 < np.mean(columns == 11) < 0.07  # a half times a ninth
    again = np.asarray(augment(images, jax.random.key(3), "flip-crop"))
    other = np.asarray(augment(images, jax.random.key(4), "flip-crop"))
    np.testing.assert_array_equal(got, again)
    assert (got != other).any()


def test_crop_alone_never_mirrors():
    images = np.zeros((500, 8, 8, 1), np.uint8)
    images[:, :, :3] = 255  # stays on the left whatever the offset of at most one pixel
    got = np.asarray(augment(images, jax.random.key(0), "crop"))
    assert not got[:, :, 4:].any()
