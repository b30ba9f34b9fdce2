"""Generators tried against products of low rank, at about equal stored numbers."""
import jax.numpy as jnp
import numpy as np
from flax import nnx
import puppet_jax as pj
from puppet_jax.puppeteers.standardise import standardise

class Permuted(nnx.Module):
    """Channels permuted and signed anew for each layer (fixed, nothing stored)."""
    def __init__(self, kernel_shapes, *, rngs, signs=True, which="both", **options):
        self.inner = pj.ContinuousPuppeteer(kernel_shapes, rngs=rngs, **options)
        self.kernel_shapes, self.conditioned = self.inner.kernel_shapes, self.inner.conditioned
        rng = np.random.default_rng(0)
        fixed = []
        for o, i, _, _ in kernel_shapes:
            po = rng.permutation(o) if which in ("both","out") else np.arange(o)
            pi = rng.permutation(i) if which in ("both","in") else np.arange(i)
            so = rng.choice([-1.0, 1.0], o) if signs and which in ("both","out") else np.ones(o)
            si = rng.choice([-1.0, 1.0], i) if signs and which in ("both","in") else np.ones(i)
            fixed.append((tuple(po), tuple(pi), tuple(so), tuple(si)))
        self.layout = tuple(fixed)
    def __call__(self, h):
        out = []
        for k, (po, pi, so, si) in zip(self.inner(h), self.layout):
            k = k[np.array(po)][:, np.array(pi)]
            out.append(k * np.array(so, np.float32)[:, None, None, None] * np.array(si, np.float32)[None, :, None, None])
        return tuple(out)

class Gains(nnx.Module):
    """A stored gain for each layer's input channel."""
    def __init__(self, kernel_shapes, *, rngs, **options):
        self.inner = pj.ContinuousPuppeteer(kernel_shapes, rngs=rngs, standardise=False, **options)
        self.kernel_shapes, self.conditioned = self.inner.kernel_shapes, self.inner.conditioned
        self.gain_scale = nnx.List([nnx.Param(jnp.ones(i)) for _, i, _, _ in kernel_shapes])
    def __call__(self, h):
        return tuple(standardise(k * g[...][None, :, None, None]) for k, g in zip(self.inner(h), self.gain_scale))
