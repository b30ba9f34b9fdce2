"""Pooling of one image's map."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def pool(x: Float[Array, "h w c"], window: int) -> Float[Array, "h_out w_out c"]:
    """The mean of each window, taken in float32; rows and columns that do not fill one are dropped."""
    if window == 1:
        return x
    h, w, c = x.shape
    rows, columns = h // window, w // window
    # As a reshape: reduce_window's gradient is a scatter, slow on every platform.
    cells = x[: rows * window, : columns * window].reshape(rows, window, columns, window, c)
    return jnp.mean(cells, axis=(1, 3), dtype=jnp.float32).astype(x.dtype)
