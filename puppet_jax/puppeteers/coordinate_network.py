"""A small network from coordinates to coefficients: the implicit function behind continuous kernels."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from puppet_jax.initialisation import uniform


class CoordinateNetwork(nnx.Module):
    """Points → coefficients of variance one, smooth in the points: z ← sin(W z + b) a few times, then linear.

    A SIREN (Sitzmann et al. 2020, arXiv:2006.09661), but for its frequency scale ω, which is the initial scale of the
    first W. It is no factor in front of every W, as in the paper's sin(ω (W z + b)): under Adam, whose steps do not
    know the scale of a gradient, that factor multiplies the learning rate of the network against that of everything
    else.

    Args:
        hidden: width.
        hidden_layers: sine layers, at least 1.
        outputs: number of coefficients.
        omega: frequency scale ω of the sines at first, in radians a unit: one for each coordinate.
        rngs: Flax random streams; ``params`` is used.
    """

    def __init__(self, hidden: int, hidden_layers: int, outputs: int, *, omega: Sequence[float], rngs: nnx.Rngs):
        draw = lambda bound, *shape: nnx.Param(uniform(rngs.params(), shape, bound))  # noqa: E731
        self.weights: nnx.List[nnx.Param] = nnx.List([])
        self.biases: nnx.List[nnx.Param] = nnx.List([])
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise([len(omega)] + [hidden] * hidden_layers)):
            # Sitzmann et al. §3.2: arguments of the sines spread over ω, then of unit variance.
            bound: Any = math.sqrt(6.0 / fan_in) if layer else np.asarray(omega)[:, None] / fan_in
            self.weights.append(draw(bound, fan_in, fan_out))
            self.biases.append(draw(math.pi, fan_out))
        # A sine layer's outputs have mean square 1/2.
        self.coefficients = draw(math.sqrt(6.0 / hidden), hidden, outputs)

    def __call__(self, points: Float[Array, "points inputs"]) -> Float[Array, "points outputs"]:
        """Coefficients at each point."""
        features = points
        for weight, bias in zip(self.weights, self.biases, strict=True):
            features = jnp.sin(features @ weight[...] + bias[...][None])
        return features @ self.coefficients[...]
