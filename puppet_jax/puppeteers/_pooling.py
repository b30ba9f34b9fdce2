"""Adaptive average pooling of a large kernel tensor to a layer's own shape (§3: "averaged down along each axis")."""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def adaptive_average(state: Float[Array, "..."], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Average ``state`` down to ``shape``, axis by axis.

    Output cell i of an axis of n cells pooled to m is the mean of input cells ⌊i·n/m⌋ … ⌈(i+1)·n/m⌉ − 1: PyTorch's
    ``adaptive_avg_pool`` on every axis. An axis that already has the right length is left alone.

    Raises:
        ValueError: the ranks differ, or ``shape`` is larger than ``state`` along some axis.
    """
    if len(shape) != state.ndim or any(m > n or m < 1 for m, n in zip(shape, state.shape, strict=False)):
        raise ValueError(f"adaptive_average: cannot average shape {state.shape} down to {tuple(shape)}")
    for axis, m in enumerate(shape):
        n = state.shape[axis]
        if m == n:
            continue
        weights = jnp.asarray(_averaging_matrix(n, m), state.dtype)
        state = jnp.moveaxis(jnp.tensordot(weights, state, axes=(1, axis)), 0, axis)
    return state


@functools.cache
def _averaging_matrix(n: int, m: int) -> np.ndarray:
    matrix = np.zeros((m, n), np.float32)
    for i in range(m):
        start, stop = i * n // m, -(-(i + 1) * n // m)
        matrix[i, start:stop] = 1.0 / (stop - start)
    return matrix
