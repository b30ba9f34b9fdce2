"""Pooling of one image's map."""

import functools

import jax.numpy as jnp
from jaxtyping import Array, Float


def pool(x: Float[Array, "h w c"], window: int, kind: str = "max") -> Float[Array, "h_out w_out c"]:
    """The greatest or the mean of each window; rows and columns that do not fill one are dropped.

    The gradient of a window's greatest goes to one cell, the first of those that are as great.
    """
    if window == 1:
        return x
    h, w, c = x.shape
    rows, columns = h // window, w // window
    # As a reshape: reduce_window's gradient is a scatter, slow on every platform.
    cells = x[: rows * window, : columns * window].reshape(rows, window, columns, window, c)
    if kind == "max":
        of_rows = functools.reduce(_greater, (cells[:, :, :, column] for column in range(window)))
        return functools.reduce(_greater, (of_rows[:, row] for row in range(window)))
    return jnp.mean(cells, axis=(1, 3), dtype=jnp.float32).astype(x.dtype)


def _greater(first: Array, second: Array) -> Array:
    # Not jnp.max, whose gradient finds the greatest again by equality and divides by how many they are: XLA may compute
    # a cell twice, rounded differently, and if none is equal, that is 0 / 0. A NaN on either side stays.
    return jnp.where((second > first) | jnp.isnan(second), second, first)
