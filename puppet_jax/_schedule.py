"""From complexity to the three scalars that steer generation: step size, depth, initial value (eqs. 5–7).

All are functions of H in bits (or nats: the formulas do not ask), of any batch shape, safe at H = 0.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Real

from puppet_jax._images import own_array

# Below this H, tanh(1/H) is 1 and exp(1 − 1/H²) is 0 in float32 to the last bit: using the limits themselves there
# keeps 1/0 out of the value and out of the gradient.
_LIMIT = 0.05


def step_size(h: Real[ArrayLike, "*batch"]) -> Float[Array, "*batch"]:
    """Step size dl = tanh(1 / H), eq. (5). In (0, 1]; 1 at H = 0.

    Raises:
        ValueError: a concrete H is negative or not finite.
    """
    small, safe = _split(h, "step_size")
    return jnp.where(small, 1.0, jnp.tanh(1.0 / safe))


def depth(h: Real[ArrayLike, "*batch"], max_depth: int | None = None, *, min_depth: int = 1) -> Int[Array, "*batch"]:
    """Depth D = ⌊1 / dl⌋, eq. (6), clipped to [min_depth, max_depth].

    Args:
        h: complexity, any batch shape.
        max_depth: number of layers the puppet has; ``None`` leaves D unclipped above.
        min_depth: least number of layers (a staged puppet needs one a stage).

    Returns:
        int32. Which images were clipped is told by :func:`depth_clipped`.

    Raises:
        ValueError: ``min_depth < 1``, ``max_depth < min_depth``, or a concrete H that is negative or not finite.
    """
    _check_bounds(max_depth, min_depth, "depth")
    return jnp.clip(_unclipped(h, "depth"), min_depth, max_depth)


def depth_clipped(
    h: Real[ArrayLike, "*batch"], max_depth: int | None = None, *, min_depth: int = 1
) -> Bool[Array, "*batch"]:
    """Whether eq. (6) asks for a depth outside [min_depth, max_depth], so that :func:`depth` clips it.

    Raises:
        ValueError: as :func:`depth`.
    """
    _check_bounds(max_depth, min_depth, "depth_clipped")
    d = _unclipped(h, "depth_clipped")
    return d != jnp.clip(d, min_depth, max_depth)


def initial_value(h: Real[ArrayLike, "*batch"]) -> Float[Array, "*batch"]:
    """Initial value P0 = exp(1 − H⁻²), eq. (7): the number that fills the initial kernel tensor. In [0, e); 0 at H = 0.

    Raises:
        ValueError: a concrete H is negative or not finite.
    """
    small, safe = _split(h, "initial_value")
    return jnp.where(small, 0.0, jnp.exp(1.0 - safe**-2.0))


def _unclipped(h, caller: str) -> Int[Array, "*batch"]:
    small, safe = _split(h, caller)
    return jnp.where(small, 1, jnp.floor(1.0 / jnp.tanh(1.0 / safe)).astype(jnp.int32))


def _split(h, caller: str) -> tuple[Bool[Array, "*batch"], Float[Array, "*batch"]]:
    h = own_array(h).astype(jnp.float32)
    if not isinstance(h, jax.core.Tracer) and not bool(jnp.all(jnp.isfinite(h) & (h >= 0))):
        raise ValueError(
            f"{caller}: complexity h must be finite and >= 0, got values from {float(jnp.min(h)):g} to "
            f"{float(jnp.max(h)):g}; compute it with puppet_jax.complexity(images)"
        )
    small = h < _LIMIT
    return small, jnp.where(small, 1.0, h)


def _check_bounds(max_depth: int | None, min_depth: int, caller: str) -> None:
    if min_depth < 1:
        raise ValueError(f"{caller}: min_depth must be at least 1, got {min_depth}")
    if max_depth is not None and max_depth < min_depth:
        raise ValueError(
            f"{caller}: max_depth must be at least {min_depth}, got {max_depth}; a puppet has one layer or more"
        )
