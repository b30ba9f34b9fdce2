"""Random initial parameters from few programs. XLA takes up to two seconds to compile a draw, for each shape anew: a
minute for a puppet of fifty different kernel shapes, were each drawn by itself."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

_LEAST = 4096


def uniform(key: Key[Array, ""], shape: tuple[int, ...], bound: ArrayLike) -> Float[Array, "..."]:
    """Independent float32 numbers between −``bound`` and ``bound``, which may be an array that broadcasts.

    So many are drawn that there are few sizes, powers of four, and those not needed are left out.
    """
    count, size = math.prod(shape), _LEAST
    while size < count:
        size *= 4
    drawn = jax.random.uniform(key, (size,), jnp.float32, minval=-1.0, maxval=1.0)
    if isinstance(drawn, jax.core.Tracer):
        return jnp.asarray(bound, jnp.float32) * drawn[:count].reshape(shape)
    # In NumPy, the same numbers: these operations too would be compiled for every shape.
    return jax.device_put(np.asarray(bound, np.float32) * np.asarray(drawn)[:count].reshape(shape))


def of_deviation(key: Key[Array, ""], shape: tuple[int, ...], deviation: float) -> Float[Array, "..."]:
    """Independent uniform numbers of mean 0 and this standard deviation."""
    return uniform(key, shape, math.sqrt(3.0) * deviation)
