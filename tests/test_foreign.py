"""The convolution that stands in for ``lax.conv_general_dilated``, against it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from puppet_jax.any_cnn._foreign import convolution
from puppet_jax.convolution import Choice

# kernel size, groups, C_in, C_out, strides, padding, lhs_dilation, rhs_dilation
CASES = [
    (3, 1, 4, 6, (1, 1), "SAME", (1, 1), (1, 1)),
    (3, 1, 4, 6, (2, 1), "VALID", (1, 1), (1, 1)),
    (1, 1, 4, 6, (2, 2), "SAME", (1, 1), (1, 1)),
    (2, 1, 4, 6, (1, 1), ((1, 0), (2, 3)), (1, 1), (1, 1)),
    (3, 1, 4, 6, (2, 3), "SAME", (1, 1), (2, 1)),
    (3, 1, 4, 6, (1, 2), ((2, 1), (-1, 2)), (2, 3), (1, 2)),
    (3, 2, 4, 6, (2, 2), "SAME", (1, 1), (1, 1)),
    (3, 4, 4, 4, (1, 1), "SAME", (1, 1), (1, 1)),
    (5, 4, 4, 8, (2, 1), "VALID", (1, 1), (1, 2)),
    (3, 4, 4, 4, (1, 1), ((-1, 0), (0, 1)), (1, 1), (1, 1)),
]


def both(size, groups, c_in, c_out, strides, padding, lhs_dilation, rhs_dilation):
    options = {
        "lhs_dilation": lhs_dilation,
        "rhs_dilation": rhs_dilation,
        "feature_group_count": groups,
        "dimension_numbers": lax.conv_dimension_numbers((1, 9, 11, c_in), (1, 1, 1, 1), ("NHWC", "HWIO", "NHWC")),
        "precision": None,
    }

    def ours(x, k):
        return convolution(k, x, None, strides, padding, **options)

    def theirs(x, k):
        return lax.conv_general_dilated(x, jnp.transpose(k, (2, 3, 1, 0)), strides, padding, **options)

    return ours, theirs


@pytest.mark.parametrize("case", CASES)
def test_is_laxs_for_every_sample_with_its_gradients(case, rng):
    size, groups, c_in, c_out = case[:4]
    ours, theirs = both(*case)
    x = jnp.asarray(rng.standard_normal((3, 2, 9, 11, c_in)), jnp.float32)
    k = jnp.asarray(rng.standard_normal((3, c_out, c_in // groups, size, size)), jnp.float32)
    found = jax.jit(jax.vmap(ours))(x, k)
    np.testing.assert_allclose(
        found, jnp.stack([theirs(a, b) for a, b in zip(x, k, strict=True)]), rtol=2e-4, atol=2e-4
    )
    g = jnp.asarray(rng.standard_normal(found.shape[1:]), jnp.float32)
    back = jax.jit(lambda x, k: jax.vjp(ours, x, k)[1](g))(x[0], k[0])
    for a, b in zip(back, jax.vjp(theirs, x[0], k[0])[1](g), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("case", [CASES[0], CASES[4], CASES[6], CASES[7]])
def test_choices_and_types(case, rng):
    size, groups, c_in, c_out = case[:4]
    ours, theirs = both(*case)
    x = jnp.asarray(rng.standard_normal((3, 1, 9, 11, c_in)), jnp.float32)
    bank = jnp.asarray(rng.standard_normal((2, size, size, c_in // groups, c_out)), jnp.float32)
    index = jnp.array([1, 0, -1])
    kernels = bank.transpose(0, 4, 3, 1, 2)
    expected = jnp.stack([theirs(a, kernels[i] * (i >= 0)) for a, i in zip(x, index, strict=True)])
    run = jax.jit(jax.vmap(ours, in_axes=(0, Choice(0, None))))
    np.testing.assert_allclose(run(x, Choice(index, bank)), expected, rtol=2e-4, atol=2e-4)
    half = run(x.astype(jnp.bfloat16), Choice(index, bank))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), expected, rtol=0.1, atol=0.2)
