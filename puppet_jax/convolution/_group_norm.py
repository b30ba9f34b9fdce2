"""Group normalisation of one image's map (Wu and He 2018, arXiv:1803.08494)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

EPSILON = 1e-5
"""Added to variances."""


def group_norm(
    x: Float[Array, "h w c"],
    groups: int,
    scale: Float[Array, " c"],
    shift: Float[Array, " c"],
    epsilon: float = EPSILON,
) -> Float[Array, "h w c"]:
    """Group normalisation of one image's map, over ``groups`` groups of channels; statistics in float32."""
    # Sums down the columns first, channels lie side by side in memory, then over a group's few: XLA:CPU takes two to
    # seven times as long to reduce both at once, and as long again backwards.
    h, w, c = x.shape
    y = x.astype(jnp.float32).reshape(h * w, c)
    each = c // groups
    mean_of_group = lambda per_channel: jnp.repeat(jnp.mean(per_channel.reshape(groups, each), axis=1), each)  # noqa: E731
    mean = mean_of_group(jnp.mean(y, axis=0))
    variance = mean_of_group(jnp.mean((y - mean[None]) ** 2, axis=0))
    factor = jax.lax.rsqrt(variance + epsilon) * scale
    return (y * factor[None] + (shift - mean * factor)[None]).reshape(h, w, c).astype(x.dtype)
