"""A small network from coordinates to coefficients: the implicit function behind continuous kernels."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from puppet_jax.puppeteers._initialisation import uniform


class CoordinateNetwork(nnx.Module):
    """Points → coefficients of variance one, smooth in the points: sin(z W + b) C.

    A SIREN (Sitzmann et al. 2020, arXiv:2006.09661) of one sine layer, but for its frequency scale ω, which is the
    initial scale of W. It is no factor in front of W, as in the paper's sin(ω (z W + b)): under Adam, whose steps do
    not know the scale of a gradient, that factor multiplies the learning rate of the network against that of
    everything else.

    Args:
        hidden: number of sines.
        outputs: number of coefficients.
        omega: frequency scale ω of the sines at first, in radians a unit: one for each coordinate.
        rngs: Flax random streams; ``params`` is used.
    """

    def __init__(self, hidden: int, outputs: int, *, omega: Sequence[float], rngs: nnx.Rngs):
        self.hidden = hidden
        draw = lambda bound, *shape: nnx.Param(uniform(rngs.params(), shape, bound))  # noqa: E731
        # Sitzmann et al. §3.2: the arguments of the sines spread over ω.
        self.weight = draw(np.asarray(omega)[:, None] / len(omega), len(omega), hidden)
        self.bias = draw(math.pi, hidden)
        # A sine layer's outputs have mean square 1/2.
        self.coefficients = draw(math.sqrt(6.0 / hidden), hidden, outputs)

    def __call__(self, points: Float[Array, "points inputs"]) -> Float[Array, "points outputs"]:
        """Coefficients at each point."""
        return self.sines(points) @ self.coefficients[...]

    def sines(self, points: Float[Array, "points inputs"]) -> Float[Array, "points hidden"]:
        """What the coefficients are sums of."""
        return jnp.sin(points @ self.weight[...] + self.bias[...][None])
