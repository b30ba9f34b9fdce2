"""Other ways to store kernels in few numbers, as puppeteers: what ``python -m bench accuracy`` compares with.

All of them give every image the same kernels, standardised as the static twin's are.
"""

import math
from typing import Any

import jax.numpy as jnp
from flax import nnx

import puppet_jax as pj
from puppet_jax.puppeteers._kernels import standardise


class Separable(pj.Puppeteer):
    """Depthwise-separable convolution without an activation between its halves: W[o, i, y, x] = P[o, i]·D[i, y, x]."""

    conditioned = False

    def __init__(self, kernel_shapes, *, rngs: nnx.Rngs):
        super().__init__(kernel_shapes)
        draw = lambda fan_in, *shape: nnx.Param(rngs.params.normal(shape) / math.sqrt(fan_in))  # noqa: E731
        self.pointwise = nnx.List([draw(c_in, c_out, c_in) for c_out, c_in, _, _ in kernel_shapes])
        self.depthwise = nnx.List([draw(k * k, 1, c_in, k, k) for _, c_in, k, _ in kernel_shapes])

    def __call__(self, h):
        pairs = zip(self.pointwise, self.depthwise, strict=True)
        return tuple(standardise(across[...][:, :, None, None] * along[...]) for across, along in pairs)


class Synecdoche(pj.Puppeteer):
    """A generator of the library synecdoche, by its class, which takes a network's weights as rows of one matrix."""

    conditioned = False

    def __init__(self, kernel_shapes, *, kind: str, rngs: nnx.Rngs, **options: Any):
        import synecdoche

        super().__init__(kernel_shapes)
        target = {str(i): jnp.zeros(shape) for i, shape in enumerate(kernel_shapes)}
        self.generator = getattr(synecdoche, kind)(target, **options, rngs=rngs)
        # It draws weights of deviations from 0.0004 to 0.02, which the ε of the standardisation is not made for.
        self.deviation = synecdoche.Constant(jnp.std(jnp.concatenate([w.ravel() for w in self.generator().values()])))

    def __call__(self, h):
        weights = self.generator()
        return tuple(standardise(weights[str(i)] / self.deviation[...]) for i in range(len(self.kernel_shapes)))
