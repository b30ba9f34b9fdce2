"""Small networks from coordinates to coefficients: the implicit functions behind continuous kernels."""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

Network = Literal["siren", "multiplicative"]


class CoordinateNetwork(nnx.Module):
    """Points → coefficients of variance one, smooth in the points.

    ``"siren"`` (Sitzmann et al. 2020, arXiv:2006.09661): z ← sin(W z + b), hidden_layers times, then linear.
    ``"multiplicative"`` (Fourier network of Fathony et al. 2021, "Multiplicative Filter Networks"): z₁ = g₁(p),
    z_{i+1} = (W z_i + b) ∘ g_{i+1}(p) with g_i(p) = √2 sin(F_i p + c_i) of the point itself, then linear.

    The frequency scale ω is the initial scale of the first W and of F, with which they then are trained. It is no
    factor in front of every W, as in the paper's sin(ω (W z + b)): under Adam, whose steps do not know the scale of a
    gradient, that factor multiplies the learning rate of the network against that of everything else.

    Args:
        inputs: number of coordinates.
        hidden: width.
        hidden_layers: sine layers, at least 1.
        outputs: number of coefficients.
        omega: frequency scale ω of the sines at first, in radians a unit: one for each coordinate.
        network: which of the two.
        modulated: scale each hidden unit of each layer by 1 + a·c, a learned from 0 on, c the ``condition`` of a call.
        rngs: Flax random streams; ``params`` is used.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        hidden_layers: int,
        outputs: int,
        *,
        omega: Sequence[float],
        network: Network,
        modulated: bool,
        rngs: nnx.Rngs,
    ):
        self.network = network
        omega = jnp.asarray(omega, jnp.float32)[:, None]
        uniform = lambda bound, *shape: jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)  # noqa: E731
        self.weights, self.biases = nnx.List([]), nnx.List([])
        if network == "siren":
            for layer, (fan_in, fan_out) in enumerate(itertools.pairwise([inputs] + [hidden] * hidden_layers)):
                # Sitzmann et al. §3.2: arguments of the sines spread over ω, then of unit variance.
                bound = omega / fan_in if layer == 0 else math.sqrt(6.0 / fan_in)
                self.weights.append(nnx.Param(bound * uniform(1.0, fan_in, fan_out)))
                self.biases.append(nnx.Param(uniform(math.pi, fan_out)))
        else:
            self.filters, self.phases = nnx.List([]), nnx.List([])
            for layer in range(hidden_layers):
                # Each layer's frequencies add to those before: a share of ω for each keeps the whole at ω.
                self.filters.append(nnx.Param(omega * uniform(1.0 / inputs / math.sqrt(hidden_layers), inputs, hidden)))
                self.phases.append(nnx.Param(uniform(math.pi, hidden)))
                if layer > 0:
                    self.weights.append(nnx.Param(uniform(math.sqrt(3.0 / hidden), hidden, hidden)))
                    self.biases.append(nnx.Param(jnp.zeros((hidden,))))
        if modulated:
            self.modulations = nnx.List([nnx.Param(jnp.zeros((hidden,))) for _ in range(hidden_layers)])
        # A sine layer's outputs have mean square 1/2 (with √2, 1).
        gain = 6.0 if network == "siren" else 3.0
        self.coefficients = nnx.Param(uniform(math.sqrt(gain / hidden), hidden, outputs))

    def __call__(
        self, points: Float[Array, "points inputs"], condition: Float[Array, ""] | None = None
    ) -> Float[Array, "points outputs"]:
        """Coefficients at each point. ``condition`` is a scalar near [-1, 1], read by a modulated network only."""

        def scaled(features, layer):
            if not hasattr(self, "modulations"):
                return features
            return features * (1.0 + self.modulations[layer][...] * condition)

        features = points
        if self.network == "siren":
            for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
                features = scaled(jnp.sin(features @ weight[...] + bias[...]), layer)
        else:
            for layer, (weight, phase) in enumerate(zip(self.filters, self.phases, strict=True)):
                waves = math.sqrt(2.0) * jnp.sin(points @ weight[...] + phase[...])
                if layer > 0:
                    waves = waves * (features @ self.weights[layer - 1][...] + self.biases[layer - 1][...])
                features = scaled(waves, layer)
        return features @ self.coefficients[...]
