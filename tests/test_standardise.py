import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import puppet_jax as pj
from puppet_jax.puppeteers.standardise import standardise


def test_mean_and_variance_of_each_output_channel(rng):
    kernel = jnp.asarray(2.6 + rng.standard_normal((7, 4, 3, 3)), jnp.float32)
    found = np.asarray(standardise(kernel), np.float64)
    np.testing.assert_allclose(found.mean(axis=(1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(found.var(axis=(1, 2, 3)), 2 / 36, rtol=1e-4)


def test_constant_kernel_stays_zero_with_a_finite_gradient():
    kernel = jnp.full((2, 3, 3, 3), 2.5)
    np.testing.assert_allclose(standardise(kernel), 0, atol=1e-4)
    gradient = jax.grad(lambda k: (standardise(k) ** 2).sum())(kernel)
    assert np.isfinite(gradient).all()


def test_one_weight_per_channel_is_refused():
    for puppeteer in (pj.OdePuppeteer, pj.ContinuousPuppeteer, pj.StoredPuppeteer):
        with pytest.raises(ValueError, match="layer 1 has one weight per output channel"):
            puppeteer([(4, 1, 1, 1), (4, 4, 3, 3)], rngs=nnx.Rngs(0))
        puppeteer([(4, 1, 1, 1), (4, 4, 3, 3)], standardise=False, rngs=nnx.Rngs(0))
