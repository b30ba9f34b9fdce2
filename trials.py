"""Trial generators."""

import math
import jax, jax.numpy as jnp
from flax import nnx
from puppet_jax.puppeteers.continuous import ContinuousPuppeteer
from puppet_jax.puppeteers.channel_matrices import ChannelMatrices
from puppet_jax.puppeteers.pooling import adaptive_average
from puppet_jax.initialisation import of_deviation


class OwnMatrices(ChannelMatrices):
    """The first layer's input factor is its own."""

    def __init__(self, base, c_in, rngs):
        self.count, self.rank, self.c_out, self.c_in = base.count, base.rank, base.c_out, base.c_in
        self.factor_out, self.factor_in = base.factor_out, base.factor_in
        std = float(jnp.std(base.factor_in[...]))
        self.first_in = nnx.Param(of_deviation(rngs.params(), (self.count, self.rank, c_in), std))

    def __call__(self, c_out, c_in):
        if c_in == self.c_in:
            return super().__call__(c_out, c_in)
        return self.factor_out[...] @ self.first_in[...]


def own(kernel_shapes, *, rngs, **options):
    p = ContinuousPuppeteer(kernel_shapes, rngs=rngs, **options)
    p.matrices = OwnMatrices(p.matrices, kernel_shapes[0][1], rngs)
    return p


class FirstStored(nnx.Module):
    def __init__(self, kernel_shapes, *, rngs, **options):
        self.kernel_shapes = tuple(kernel_shapes)
        from puppet_jax.puppeteers import StoredPuppeteer

        self.first = StoredPuppeteer(kernel_shapes[:1], rngs=rngs)
        self.rest = ContinuousPuppeteer(
            kernel_shapes[1:], numbers=tuple(range(2, len(kernel_shapes) + 1)), rngs=rngs, **options
        )

    def __call__(self, h):
        return (*self.first(h), *self.rest(h))


@jax.custom_vjp
def spectral(m):
    return m


def _fwd(m):
    return m, None


def _bwd(_, g):
    x = g / (jnp.linalg.norm(g, axis=(1, 2), keepdims=True) + 1e-12)
    for _ in range(5):
        a = x @ jnp.swapaxes(x, 1, 2)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    # the norm of the whole gradient is kept
    return (x * jnp.linalg.norm(g) / (jnp.linalg.norm(x) + 1e-12),)


spectral.defvjp(_fwd, _bwd)


class Spectral(ContinuousPuppeteer):
    """The gradient of each sine's matrix is made orthogonal before it goes to factors."""

    def __call__(self, h):
        import puppet_jax.puppeteers.continuous as c

        points = self._points(h)
        coefficients = self.network.sines(points)
        pooled = {s[:2]: jnp.swapaxes(self.matrices(*s[:2]), 1, 2) for s in self.kernel_shapes}
        pooled = {s: c._plain(self.network.coefficients[...], m) for s, m in pooled.items()}
        pooled = {s: spectral(m) for s, m in pooled.items()}
        kernels, start = [], 0
        for c_out, c_in, k, _ in self.kernel_shapes:
            taps = coefficients[start : start + k * k]
            start += k * k
            kernel = c._standardised(taps, pooled[c_out, c_in])
            kernels.append(jnp.transpose(kernel.reshape(k, k, c_in, c_out), (3, 2, 0, 1)))
        return tuple(kernels)
