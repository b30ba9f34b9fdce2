"""What an image is to this library: the one check at the door, and its two readings (levels, unit interval)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer, Num

ROUNDING = 1e-6
"""How far beyond [0, 1] floats may lie, as a resize leaves them."""


def check_images(images: Num[ArrayLike, "*batch h w c"], caller: str) -> Num[Array, "*batch h w c"]:
    """Return ``images`` as an array, or raise with the reason.

    Shape and dtype are checked always, at trace time under ``jit``; values (NaN, infinity, outside [0, 1]) only
    where they exist, that is on concrete arrays.

    Args:
        images: ``(*batch, H, W, C)``, uint8 or floating.
        caller: the public function to name in the error.

    Raises:
        TypeError: the dtype is neither uint8 nor floating.
        ValueError: fewer than three axes, an empty axis, or floats that are not finite or not in [0, 1].
    """
    images = own_array(images)
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
    if isinstance(images, jax.core.Tracer):
        return images
    low, high = float(jnp.min(images)), float(jnp.max(images))
    if not (low == low and high == high):
        raise ValueError(f"{caller}: images holds NaN; remove or repair those pixels first")
    if low < -ROUNDING or high > 1.0 + ROUNDING:
        raise ValueError(
            f"{caller}: float images must lie in [0, 1], got values from {low:.9g} to {high:.9g}; "
            "divide by 255, or pass uint8 levels"
        )
    return images


def own_array(values: ArrayLike) -> Array:
    """``values`` as an array that nobody else can change, in this machine's order of bytes.

    JAX may read NumPy's memory instead of copying it, and does so later: a caller who fills the same buffer with the
    next batch would change the answers for this one.
    """
    if isinstance(values, jax.Array):
        return values
    values = np.array(values)
    return jnp.asarray(values.astype(values.dtype.newbyteorder("="), copy=False))


def as_levels(images: Num[Array, "*batch h w c"]) -> Integer[Array, "*batch h w c"]:
    """Pixels as integer levels 0..255 (int32); floats in [0, 1] are rounded to the nearest."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.int32)
    return jnp.round(images.astype(jnp.float32) * 255.0).astype(jnp.int32)


def as_unit(images: Num[Array, "*batch h w c"]) -> Float[Array, "*batch h w c"]:
    """Pixels as float32 in [0, 1]; uint8 levels are divided by 255."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255.0
    return images.astype(jnp.float32)
