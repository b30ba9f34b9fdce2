"""Complexity, the one scalar that a puppet is made from (eqs. 3 and 4), and what follows from it (eqs. 5 to 7)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Integer, Num, Real

from puppet_jax._integers import integer
from puppet_jax._mesh import of_any_mesh

LEVELS = 256
ROUNDING = 1e-6
"""How far beyond [0, 1] floats may lie, as a resize leaves them."""
FLAT = 1e-5
# Below this H, tanh(1/H) is 1 and exp(1 − 1/H²) is 0 in float32 to the last bit: using the limits themselves there
# keeps 1/0 out of the value and out of the gradient.
_LIMIT = 0.05


def entropy(levels: Integer[ArrayLike, "*batch n"]) -> Float[Array, "*batch"]:
    """Return the Shannon entropy E(v) of the values along the last axis, in bits, eq. (3).

    ``E(v) = -sum_i p_i log2 p_i`` over the 256-bin histogram of ``v``, with 0·log 0 = 0.

    Args:
        levels: integers in 0..255, shape ``(*batch, n)``, n >= 1.

    Returns:
        float32, 0 to 8, shape ``(*batch,)``. Under ``jit``, where values outside 0..255 cannot be refused, theirs is
        NaN.

    Raises:
        TypeError: ``levels`` is not of an integer type.
        ValueError: no values, or a value outside 0..255.
    """
    seen = _range_seen(levels)
    levels = copied_array(levels)
    if not jnp.issubdtype(levels.dtype, jnp.integer):
        raise TypeError(
            f"entropy: levels must be integers in 0..255, got dtype {levels.dtype}; quantise first, "
            "for example jnp.round(255 * x).astype(jnp.uint8)"
        )
    if levels.ndim == 0 or levels.shape[-1] == 0:
        raise ValueError(f"entropy: levels needs at least one value along its last axis, got shape {levels.shape}")
    if seen and not 0 <= seen[0] <= seen[1] < LEVELS:
        raise ValueError(f"entropy: levels must lie in 0..255, got {seen[0]:g}..{seen[1]:g}; rescale or clip them")
    levels = levels.astype(jnp.int32)  # before it is compared: 256 is no uint8
    bits, unit = _counted_bits(levels, 1)
    valid = jnp.all((levels >= 0) & (levels < LEVELS), axis=-1)
    return jnp.where(valid, bits.astype(jnp.float32) * unit, jnp.nan)


def frequency_map(images: Num[ArrayLike, "*batch h w c"]) -> Integer[Array, "*batch h w c"]:
    """Return the frequency map Y of an image, quantised to 256 levels.

    ``log(1 + |FFT2(image in [0, 1])|)`` of each channel, min–max scaled per channel to 0..255. A channel whose
    spectrum is flat to 1e-5 (a black image, one bright pixel) gives level 0 everywhere.

    Args:
        images: ``(*batch, H, W, C)``, uint8 or float in [0, 1].

    Returns:
        int32 levels in 0..255, the shape of ``images``; the zero frequency stays at index (0, 0).

    Raises:
        TypeError, ValueError: see :func:`complexity`.
    """
    images = check_images(images, "frequency_map")
    return of_any_mesh(_frequency_map, images=images, batch_axes=images.ndim - 3)


def complexity(images: Num[ArrayLike, "*batch h w c"]) -> Float[Array, "*batch"]:
    """Return the complexity H(X0) = ½ E(X0) + ½ E(Y(X0)) of each image, in bits, eq. (4).

    Entropies are taken per channel and averaged. Complexity is a measurement: no gradient flows through it. An image's
    is the same number in a batch of any size.

    Args:
        images: ``(*batch, H, W, C)`` of any batch shape, channels and size from 1×1 up; uint8, or float in
            [0, 1], which is rounded to uint8 levels before its entropy is taken.

    Returns:
        float32, 0 to 8, of shape ``(*batch,)``. A constant image has E(X0) = 0; its spectrum is one non-zero value
        among H·W, so H is 0 for a black image or a single pixel, and at most ½ bit (two pixels) otherwise. Under
        ``jit``, where floats outside [0, 1] cannot be refused, theirs is NaN.

    Raises:
        TypeError: the dtype is neither uint8 nor floating.
        ValueError: fewer than three axes, an empty axis, NaN or values outside [0, 1].
    """
    images = check_images(images, "complexity")
    return of_any_mesh(_complexity, images=images, batch_axes=images.ndim - 3)


def step_size(h: Real[ArrayLike, "*batch"]) -> Float[Array, "*batch"]:
    """Return the step size dl = tanh(1 / H), eq. (5). In (0, 1]; 1 at H = 0.

    Raises:
        ValueError: a concrete H is negative or not finite; so do the functions below.
    """
    small, safe = _apart_from_zero(h, "step_size")
    return jnp.where(small, 1.0, jnp.tanh(1.0 / safe))


def depth(h: Real[ArrayLike, "*batch"], max_depth: int | None = None) -> Int[Array, "*batch"]:
    """Return the depth D = ⌊1 / dl⌋, eq. (6), int32, at least 1.

    Args:
        h: complexity, any batch shape.
        max_depth: number of layers the puppet has, to which D is clipped (:func:`depth_clipped` tells of which
            images); ``None`` leaves D unclipped.

    Raises:
        ValueError: ``max_depth < 1``.
    """
    if max_depth is not None:
        max_depth = integer(max_depth, "depth: max_depth")
    small, safe = _apart_from_zero(h, "depth")
    layers = jnp.where(small, 1, jnp.floor(1.0 / jnp.tanh(1.0 / safe)).astype(jnp.int32))
    return jnp.clip(layers, 1, max_depth)


def depth_clipped(h: Real[ArrayLike, "*batch"], max_depth: int) -> Bool[Array, "*batch"]:
    """Return whether eq. (6) asks for more than ``max_depth`` layers, so that :func:`depth` clips it."""
    return depth(h) > depth(h, max_depth)


def initial_value(h: Real[ArrayLike, "*batch"]) -> Float[Array, "*batch"]:
    """Return P0 = exp(1 − H⁻²), eq. (7), the number that fills the initial kernel tensor. In [0, e); 0 at H = 0."""
    small, safe = _apart_from_zero(h, "initial_value")
    return jnp.where(small, 0.0, jnp.exp(1.0 - safe**-2.0))


def check_images(images: Num[ArrayLike, "*batch h w c"], caller: str) -> Num[Array, "*batch h w c"]:
    """Return ``images`` as an array, or raise what :func:`complexity` says, in the name of the caller.

    Shape and dtype are checked always, at trace time under ``jit``; values only on concrete arrays.
    """
    given, images = images, copied_array(images)
    if images.ndim < 3:
        raise ValueError(
            f"{caller}: images must have shape (..., height, width, channels), got {images.shape}; "
            "give a grey image its channel with image[..., None]"
        )
    if images.size == 0:
        raise ValueError(f"{caller}: images has an empty axis, shape {images.shape}; at least one pixel is needed")
    if images.dtype == jnp.uint8:
        return images
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(
            f"{caller}: images must be uint8 or floats in [0, 1], got dtype {images.dtype}; "
            "convert with images.astype('uint8') if its values are levels 0..255"
        )
    low, high = _range_seen(given) or (0.0, 1.0)
    if math.isnan(low) or math.isnan(high):
        raise ValueError(f"{caller}: images holds NaN; remove or repair those pixels first")
    if low < -ROUNDING or high > 1.0 + ROUNDING:
        raise ValueError(
            f"{caller}: float images must lie in [0, 1], got values from {low:.9g} to {high:.9g}; "
            "divide by 255, or pass uint8 levels"
        )
    return images


def check_batch(images: Num[ArrayLike, "*batch h w c"], caller: str) -> Num[Array, "*batch h w c"]:
    """Return one image or a batch as :func:`check_images` does; ``ValueError`` for more batch axes."""
    images = check_images(images, caller)
    if images.ndim > 4:
        raise ValueError(
            f"{caller}: images must be one image (H, W, C) or a batch (B, H, W, C), got shape {images.shape}; "
            "for more batch axes use jax.vmap"
        )
    return images


def copied_array(values: ArrayLike) -> Array:
    """Return ``values`` as an array that nobody else can change, in this machine's order of bytes.

    JAX may read NumPy's memory instead of copying it, and does so later: a caller who fills the same buffer with the
    next batch would change the answers for this one.
    """
    if isinstance(values, jax.Array):
        return values
    values = np.array(values)
    return jnp.asarray(values.astype(values.dtype.newbyteorder("="), copy=False))


def as_levels(images: Num[Array, "*batch h w c"]) -> Integer[Array, "*batch h w c"]:
    """Return pixels as integer levels 0..255 (int32); floats in [0, 1] are rounded to the nearest."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.int32)
    return jnp.round(images.astype(jnp.float32) * 255.0).astype(jnp.int32)


def as_unit(images: Num[Array, "*batch h w c"]) -> Float[Array, "*batch h w c"]:
    """Return pixels as float32 in [0, 1]; uint8 levels are divided by 255."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255.0
    return images.astype(jnp.float32)


def _complexity(images: Num[Array, "*batch h w c"]) -> Float[Array, "*batch"]:
    images = jax.lax.stop_gradient(images)
    averaged = 2 * images.shape[-1]

    def channels(levels):
        return jnp.moveaxis(levels, -1, -3).reshape(*levels.shape[:-3], levels.shape[-1], -1)

    of_pixels, unit = _counted_bits(channels(as_levels(images)), averaged)
    of_frequencies, _ = _counted_bits(channels(_frequency_map(images)), averaged)
    h = jnp.sum(of_pixels + of_frequencies, axis=-1, dtype=jnp.int32).astype(jnp.float32) * unit
    if images.dtype == jnp.uint8:
        return h
    inside = jnp.all((images >= -ROUNDING) & (images <= 1.0 + ROUNDING), axis=(-3, -2, -1))
    return jnp.where(inside, h, jnp.nan)


def _frequency_map(images: Num[Array, "*batch h w c"]) -> Integer[Array, "*batch h w c"]:
    # Transform whole numbers from 0 to 255, not values in [0, 1]: that rounds less, so fewer frequencies fall into
    # another level than they would in float64.
    levels = images.astype(jnp.float32) if images.dtype == jnp.uint8 else as_unit(images) * 255.0
    y = jnp.log1p(jnp.abs(jnp.fft.fft2(levels, axes=(-3, -2))) / 255.0)
    low = jnp.min(y, axis=(-3, -2), keepdims=True)
    high = jnp.max(y, axis=(-3, -2), keepdims=True)
    # A flat spectrum (one bright pixel) is flat up to rounding errors; do not stretch those over 256 levels.
    flat = high - low <= FLAT * high
    scaled = jnp.where(flat, 0.0, (y - low) / jnp.where(flat, 1.0, high - low))
    return jnp.round(scaled * (LEVELS - 1)).astype(jnp.int32)


def _counted_bits(levels: Integer[Array, "*batch n"], averaged: int) -> tuple[Int[Array, "*batch"], float]:
    """Return E(v) as an integer, and the number to multiply the sum of ``averaged`` such integers by for their mean.

    log2 n − (1/n) Σ c log2 c equals −Σ p log2 p. The sum is one of integers, c·log2 c in fixed point: a sum of floats
    depends on the order in which a program happens to add, which differs between batch sizes.
    """
    n = levels.shape[-1]
    scale, unit = fixed_point(n, averaged)
    counts = np.arange(n + 1)
    table = np.round(counts * np.log2(np.maximum(counts, 1)) * scale).astype(np.int32)
    # One scatter for the whole batch; comparing with 256 bins costs 60 times as much on a CPU, sorting 8 times.
    rows = levels.reshape(-1, n).astype(jnp.int32)
    own_row = jnp.arange(rows.shape[0])[:, None]
    histogram = jnp.zeros((rows.shape[0], LEVELS), jnp.int32).at[own_row, rows].add(1, mode="drop")
    information = jnp.asarray(table).at[histogram].get(mode="promise_in_bounds").reshape(*levels.shape[:-1], LEVELS)
    return table[n] - jnp.sum(information, axis=-1, dtype=jnp.int32), unit


def fixed_point(n: int, averaged: int) -> tuple[float, float]:
    """Return what c·log2 c of ``n`` levels is multiplied by before it is rounded, so that no sum over ``averaged`` of
    them reaches 2³¹, and what such a sum is multiplied by for their mean per level."""
    scale = 2.0 ** math.floor(30 - math.log2(n * max(8 * averaged, math.log2(n))))
    return scale, 1.0 / (averaged * n * scale)


def _range_seen(values: ArrayLike) -> tuple[float, float] | None:
    """Return the least and the greatest of values that can be seen; ``None`` of none, and of those being traced."""
    if isinstance(values, jax.core.Tracer) or np.size(values) == 0:
        return None
    if not isinstance(values, jax.Array):
        return float(np.min(values)), float(np.max(values))
    with jax.ensure_compile_time_eval():  # a concrete array may have been closed over by what is being traced
        return float(jnp.min(values)), float(jnp.max(values))


def _apart_from_zero(h: Real[ArrayLike, "*batch"], caller: str) -> tuple[Bool[Array, "*batch"], Float[Array, "*batch"]]:
    """Return where H is so small that its limit stands for it, and H with 1 in those places."""
    low, high = _range_seen(h) or (0.0, 0.0)
    if not (low >= 0 and high < math.inf):
        raise ValueError(
            f"{caller}: complexity h must be finite and >= 0, got values from {low:g} to {high:g}; "
            "compute it with puppet_jax.complexity(images)"
        )
    h = copied_array(h).astype(jnp.float32)
    small = h < _LIMIT
    return small, jnp.where(small, 1.0, h)
