"""The convolution that stands in for ``lax.conv_general_dilated``, against it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from puppet_jax.any_cnn._convolution import convolution
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


@pytest.mark.parametrize("case", CASES)
def test_is_laxs_for_every_choice_with_its_gradients(case, rng):
    size, groups, c_in, c_out, strides, padding, lhs_dilation, rhs_dilation = case
    x = jnp.asarray(rng.standard_normal((3, 2, 9, 11, c_in)), jnp.float32)
    bank = jnp.asarray(rng.standard_normal((2, size, size, c_in // groups, c_out)), jnp.float32)
    index = jnp.array([1, 0, -1])
    options = {
        "lhs_dilation": lhs_dilation,
        "rhs_dilation": rhs_dilation,
        "feature_group_count": groups,
        "dimension_numbers": lax.conv_dimension_numbers(x.shape[1:], bank.shape[1:], ("NHWC", "HWIO", "NHWC")),
    }

    @jax.jit
    def ours(x, bank):
        run = lambda x, i: convolution(Choice(i, bank), x, None, strides, padding, **options)  # noqa: E731
        return jax.vmap(run)(x, index)

    def theirs(x, bank):
        kernels = [bank[i] * (i >= 0) for i in index]
        return jnp.stack(
            [lax.conv_general_dilated(*each, strides, padding, **options) for each in zip(x, kernels, strict=True)]
        )

    (found, back), (expected, their_back) = jax.vjp(ours, x, bank), jax.vjp(theirs, x, bank)
    g = jnp.asarray(rng.standard_normal(found.shape), jnp.float32)
    for a, b in zip((found, *back(g)), (expected, *their_back(g)), strict=True):
        np.testing.assert_allclose(a, b, rtol=3e-4, atol=3e-4)
    half = ours(x.astype(jnp.bfloat16), bank)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), expected, rtol=0.1, atol=0.2)
