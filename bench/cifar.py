"""CIFAR-10's mix of complexities, without CIFAR-10: quantiles of H over its test set, and images made to have given H.

``cifar10_complexity.json`` holds 1001 quantiles of H (bits, the library's defaults) of the 10,000 test images. A batch
of B takes the quantiles at (i + ½) / B, so its depths are in CIFAR-10's own proportions whatever B is. As a puppet
measures the complexity of the image it is given, the images must have these complexities themselves: each is 1/f noise
with equally frequent levels, the contrast of which is bisected until H is right. Nothing else about them costs time.
"""

import json
from pathlib import Path

import numpy as np

SIZE = 32
_TABLE = Path(__file__).with_name("cifar10_complexity.json")


def complexities(batch: int) -> np.ndarray:
    """(batch,) float32: H in bits at equally spaced quantiles of CIFAR-10's test set, in shuffled order."""
    quantiles = np.asarray(json.loads(_TABLE.read_text())["quantiles"])
    levels = (np.arange(batch) + 0.5) / batch
    h = np.interp(levels, np.linspace(0.0, 1.0, len(quantiles)), quantiles)
    return np.random.default_rng(0).permutation(h).astype(np.float32)


def images(h: np.ndarray, measure) -> np.ndarray:
    """Images (B, 32, 32, 3), uint8, which ``measure`` finds to be of complexity ``h``, (B,) bits between about 2 and
    7.2, to a few hundredths of a bit."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE), indexing="ij"))
    frequency[0, 0] = np.inf
    noise = np.fft.fft2(rng.standard_normal((len(h), 3, SIZE, SIZE))) / frequency
    field = np.fft.ifft2(noise).real.reshape(len(h), 3, -1)
    ranks = field.argsort(axis=-1).argsort(axis=-1) / (SIZE * SIZE - 1)
    field = np.moveaxis((2.0 * ranks - 1.0).reshape(len(h), 3, SIZE, SIZE), 1, -1)
    low, high = np.full(len(h), -1.0), np.full(len(h), np.log2(127.5))  # log2 of the contrast in levels
    for _ in range(14):
        middle = (low + high) / 2
        too_simple = np.asarray(measure(_render(field, middle))) < h
        low, high = np.where(too_simple, middle, low), np.where(too_simple, high, middle)
    return _render(field, (low + high) / 2)


def _render(field: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    levels = 127.5 + 2.0 ** contrast[:, None, None, None] * field
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)
