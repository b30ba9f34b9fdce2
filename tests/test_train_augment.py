"""Crops, flips and strong changes. What is drawn, and crops to the pixel: see test_train_by_hand.py."""

import jax
import numpy as np

from train.steps.augment import augment


def test_a_kind_does_what_it_says_and_no_more(rng):
    image = rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)
    keys = jax.random.split(jax.random.key(0), 400)
    images = np.repeat(image[None], 400, 0)
    assert augment(images, keys, "none") is images
    got = np.asarray(augment(images, keys, "flip"))
    mirrored = (got == images[:, :, ::-1]).all((1, 2, 3))
    assert (mirrored | (got == images).all((1, 2, 3))).all()
    assert 0.4 < mirrored.mean() < 0.6
    images = np.zeros((400, 8, 12, 1), np.uint8)
    images[:, :, :3] = 255  # stays on the left whatever the offset of at most one pixel: crop never mirrors
    assert not np.asarray(augment(images, keys, "crop"))[:, :, 4:].any()


def test_strong_turns_scales_moves_and_recolours_within_its_bounds():
    side, middle = 65, 32
    image = np.full((side, side, 3), (40, 90, 140), np.uint8)
    keys = jax.random.split(jax.random.key(1), 300)
    flat = np.asarray(augment(np.repeat(image[None], 300, 0), keys, "strong"))
    assert (flat == flat[:, :1, :1]).all()
    order = flat[:, 0, 0].astype(int).argsort(-1)
    assert 0.2 < np.mean((order == [0, 1, 2]).all(-1)) < 0.65  # most have neither other channels nor the negative
    y, x = np.mgrid[:side, :side]
    places = []
    for column in (middle, middle + 16):  # the middle, and a place to its right
        image = np.rint(200 * np.exp(-((y - middle) ** 2 + (x - column) ** 2) / 18)).astype(np.uint8)
        seen = np.asarray(augment(np.repeat(image[None, ..., None], 300, 0), keys, "strong"))[..., 0].astype(float)
        shown = abs(seen - np.median(seen, (1, 2), keepdims=True))
        weight = shown * (shown > shown.max((1, 2), keepdims=True) / 2)
        places.append([np.einsum("byx,yx->b", weight, axis) / weight.sum((1, 2)) for axis in (y, x)])
    (y0, x0), (y1, x1) = places
    inside = (np.hypot(y0 - middle, x0 - middle) < 8) & (abs(x1 - middle) < 28) & (abs(y1 - middle) < 28)
    dy, dx = (y1 - y0)[inside], (x1 - x0)[inside]
    assert inside.sum() > 100
    # Quantiles: a copy that the border mirrors may count as the place.
    least, most = np.quantile(np.hypot(dy, dx), [0.05, 0.9])
    assert 16 / 1.45 < least < 16 / 1.2 < 16 * 1.2 < most < 16 * 1.45
    assert 24 < np.quantile(abs(np.degrees(np.arctan2(dy, abs(dx)))), 0.9) < 36
    assert 0.4 < (dx < 0).mean() < 0.6
