"""Image complexity: the one scalar a puppet is made from (eqs. 3 and 4)."""

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer, Num

from puppet_jax._images import as_levels, as_unit, check_images, own_array
from puppet_jax._mesh import of_any_mesh

LEVELS = 256
_FLAT = 1e-5

Base = Literal[2, "e"]
Spectrum = Literal["log", "magnitude"]


def entropy(levels: Integer[ArrayLike, "*batch n"], *, base: Base = 2) -> Float[Array, "*batch"]:
    """Shannon entropy E(v) of the values along the last axis, eq. (3).

    ``E(v) = -sum_i p_i log p_i`` over the 256-bin histogram of ``v``, with 0·log 0 = 0.

    Args:
        levels: integers in 0..255, shape ``(*batch, n)``, n >= 1. Values outside are an error when they can
            be seen (eagerly); under ``jit`` they are left out of the histogram.
        base: ``2`` gives bits (0 to 8), ``"e"`` nats.

    Returns:
        float32, shape ``(*batch,)``.

    Raises:
        TypeError: ``levels`` is not of an integer type.
        ValueError: no values, a value outside 0..255, or an unknown ``base``.
    """
    levels = own_array(levels)
    if not jnp.issubdtype(levels.dtype, jnp.integer):
        raise TypeError(
            f"entropy: levels must be integers in 0..255, got dtype {levels.dtype}; quantise first, "
            "for example jnp.round(255 * x).astype(jnp.uint8)"
        )
    if levels.ndim == 0 or levels.shape[-1] == 0:
        raise ValueError(f"entropy: levels needs at least one value along its last axis, got shape {levels.shape}")
    if not isinstance(levels, jax.core.Tracer) and levels.size:
        low, high = int(levels.min()), int(levels.max())
        if low < 0 or high >= LEVELS:
            raise ValueError(f"entropy: levels must lie in 0..255, got {low}..{high}; rescale or clip them first")
    unit = _log_unit(base, "entropy")
    n = levels.shape[-1]
    # log n − (1/n) Σ c log c equals −Σ p log p, needs no division by a count, and is exactly 0 for one bin only
    # up to rounding, hence the clamp.
    counts = _histogram(levels).astype(jnp.float32)
    information = jnp.sum(counts * jnp.log(jnp.maximum(counts, 1.0)), axis=-1) / n
    return jnp.maximum(math.log(n) - information, 0.0) / unit


def frequency_map(
    images: Num[ArrayLike, "*batch h w c"], *, spectrum: Spectrum = "log"
) -> Integer[Array, "*batch h w c"]:
    """Frequency map Y of an image, quantised to 256 levels.

    ``log(1 + |FFT2(image in [0, 1])|)`` of each channel, min–max scaled per channel to 0..255. A channel whose
    spectrum is flat to 1e-5 (a black image, one bright pixel) gives level 0 everywhere.

    Args:
        images: ``(*batch, H, W, C)``, uint8 or float in [0, 1].
        spectrum: ``"log"`` as above; ``"magnitude"`` leaves out the logarithm.

    Returns:
        int32 levels in 0..255, the shape of ``images``; the zero frequency stays at index (0, 0).

    Raises:
        TypeError, ValueError: see :func:`complexity`.
    """
    images = check_images(images, "frequency_map")
    if spectrum not in ("log", "magnitude"):
        raise ValueError(f'frequency_map: spectrum must be "log" or "magnitude", got {spectrum!r}')
    run = functools.partial(_frequency_map, spectrum=spectrum)
    return of_any_mesh(run, images=images, batch_axes=images.ndim - 3)


def complexity(
    images: Num[ArrayLike, "*batch h w c"],
    *,
    base: Base = 2,
    spectrum: Spectrum = "log",
    pixel_weight: float = 0.5,
) -> Float[Array, "*batch"]:
    """Complexity H(X0) = ½ E(X0) + ½ E(Y(X0)) of each image, eq. (4).

    Entropies are taken per channel and averaged. Complexity is a measurement: no gradient flows through it.

    Args:
        images: ``(*batch, H, W, C)`` of any batch shape, channels and size from 1×1 up; uint8, or float in
            [0, 1], which is rounded to uint8 levels before its entropy is taken.
        base: ``2`` gives bits (0 to 8), ``"e"`` nats.
        spectrum: see :func:`frequency_map`.
        pixel_weight: the share of the pixels' entropy, ½ in eq. (4); 1 uses pixels only, 0 frequencies only.

    Returns:
        float32 of shape ``(*batch,)``. Finite for every valid image. A constant image has E(X0) = 0; its spectrum
        is one non-zero value among H·W, so H is 0 for a black image or a single pixel, and at most ½ bit (two pixels)
        otherwise.

    Raises:
        TypeError: the dtype is neither uint8 nor floating.
        ValueError: fewer than three axes, an empty axis, NaN or values outside [0, 1] (checked on concrete arrays;
            under ``jit`` only shape and dtype can be), or an unknown option.
    """
    images = check_images(images, "complexity")
    if spectrum not in ("log", "magnitude"):
        raise ValueError(f'complexity: spectrum must be "log" or "magnitude", got {spectrum!r}')
    if not 0.0 <= pixel_weight <= 1.0:
        raise ValueError(f"complexity: pixel_weight must lie in [0, 1], got {pixel_weight}")
    run = functools.partial(_complexity, base=base, spectrum=spectrum, pixel_weight=pixel_weight)
    return of_any_mesh(run, images=images, batch_axes=images.ndim - 3)


def _complexity(
    images: Num[Array, "*batch h w c"], base: Base, spectrum: Spectrum, pixel_weight: float
) -> Float[Array, "*batch"]:
    images = jax.lax.stop_gradient(images)
    pixels = _flat_channels(as_levels(images))
    frequencies = _flat_channels(_frequency_map(images, spectrum))
    of_pixels, of_frequencies = entropy(pixels, base=base), entropy(frequencies, base=base)
    mixed = pixel_weight * of_pixels + (1.0 - pixel_weight) * of_frequencies
    return jax.lax.stop_gradient(jnp.mean(mixed, axis=-1))


def _frequency_map(images: Num[Array, "*batch h w c"], spectrum: Spectrum) -> Integer[Array, "*batch h w c"]:
    # Transform whole numbers from 0 to 255, not values in [0, 1]: that rounds less, so fewer frequencies fall into
    # another level than they would in float64.
    levels = images.astype(jnp.float32) if images.dtype == jnp.uint8 else as_unit(images) * 255.0
    magnitude = jnp.abs(jnp.fft.fft2(levels, axes=(-3, -2))) / 255.0
    y = jnp.log1p(magnitude) if spectrum == "log" else magnitude
    low = jnp.min(y, axis=(-3, -2), keepdims=True)
    high = jnp.max(y, axis=(-3, -2), keepdims=True)
    # A flat spectrum (one bright pixel) is flat up to rounding errors; do not stretch those over 256 levels.
    flat = high - low <= _FLAT * high
    scaled = jnp.where(flat, 0.0, (y - low) / jnp.where(flat, 1.0, high - low))
    return jnp.round(scaled * (LEVELS - 1)).astype(jnp.int32)


def _flat_channels(levels: Integer[Array, "*batch h w c"]) -> Integer[Array, "*batch c n"]:
    channels_first = jnp.moveaxis(levels, -1, -3)
    return channels_first.reshape(*channels_first.shape[:-2], -1)


def _histogram(levels: Integer[Array, "*batch n"]) -> Integer[Array, "*batch 256"]:
    # One scatter for the whole batch; comparing with 256 bins costs 60 times as much on a CPU, sorting 8 times.
    rows = levels.reshape(-1, levels.shape[-1]).astype(jnp.int32)
    index = jnp.arange(rows.shape[0])[:, None]
    counts = jnp.zeros((rows.shape[0], LEVELS), jnp.int32).at[index, rows].add(1, mode="drop")
    return counts.reshape(*levels.shape[:-1], LEVELS)


def _log_unit(base: Base, caller: str) -> float:
    if base not in (2, "e"):
        raise ValueError(f'{caller}: base must be 2 (bits) or "e" (nats), got {base!r}')
    return math.log(2.0) if base == 2 else 1.0
