"""Pooling: of a map, its values, where gradients go, and that they are finite however XLA rounds; and of kernels."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from puppet_jax.puppeteers.pooling import adaptive_average
from puppet_jax.puppets.pool import pool

# The map is normalised right before: fused with that, it may be computed twice and rounded differently.
_GRADIENT = """
import jax, jax.numpy as jnp, numpy as np
from puppet_jax.puppets.group_norm import group_norm
from puppet_jax.puppets.pool import pool

def loss(x, scale):
    one = lambda x: pool(jax.nn.relu(group_norm(x, 2, scale, scale)), 2)
    return jnp.sum(jnp.tanh(jax.vmap(one)(x)))

x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 8)), jnp.float32)
found = jax.jit(jax.grad(loss, argnums=(0, 1)))(x, jnp.linspace(0.5, 1.5, 8))
assert all(np.isfinite(each).all() for each in found), [int((~np.isfinite(each)).sum()) for each in found]
"""


@pytest.mark.parametrize("window", [2, 3])
@pytest.mark.parametrize("kind", ["max", "average"])
def test_every_window_gives_its_greatest_or_mean(window, kind):
    x = np.random.default_rng(0).normal(size=(7, 8, 3)).astype(np.float32)
    found = np.asarray(jax.jit(pool, static_argnums=(1, 2))(x, window, kind))
    assert found.shape == (7 // window, 8 // window, 3)
    for row, column in np.ndindex(found.shape[:2]):
        cells = x[row * window : (row + 1) * window, column * window : (column + 1) * window]
        expected = cells.max((0, 1)) if kind == "max" else cells.mean((0, 1))
        np.testing.assert_allclose(found[row, column], expected, rtol=1e-6, atol=1e-7)


def test_a_window_gives_its_gradient_to_one_of_its_greatest_and_keeps_a_nan():
    x = jnp.asarray([[1.0, 3.0], [3.0, 3.0]])[:, :, None]
    gradient = jax.grad(lambda x: pool(x, 2).sum())(x)
    assert sorted(np.ravel(gradient)) == [0.0, 0.0, 0.0, 1.0]
    assert gradient[0, 0, 0] == 0.0
    for place in np.ndindex(2, 2, 1):
        assert np.isnan(pool(x.at[place].set(jnp.nan), 2)).all()


def test_gradients_are_finite_where_a_cell_is_rounded_twice():
    # Without LLVM's optimisations XLA's fusions round products differently: jnp.max, whose gradient looks for what
    # equals the greatest, found none and divided by none.
    own = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")} | own
    done = subprocess.run([sys.executable, "-c", _GRADIENT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]


@pytest.mark.parametrize("shape", [(6, 5, 3, 3), (6, 2, 3, 3), (4, 5, 1, 1), (1, 1, 2, 2), (5, 3, 3, 1)])
def test_adaptive_average_is_pytorchs(rng, shape):
    state = rng.standard_normal((6, 5, 3, 3)).astype(np.float32)
    found = adaptive_average(jnp.asarray(state), shape)
    np.testing.assert_allclose(found, reference.adaptive_average(state, shape), atol=1e-6)


@pytest.mark.usefixtures("no_type_checker")
def test_adaptive_average_by_hand_and_never_upwards():
    # 5 cells to 3: windows 0–1, 1–3, 3–4 (PyTorch's overlap), as computed by hand.
    state = jnp.array([1.0, 2.0, 4.0, 8.0, 16.0])
    np.testing.assert_allclose(adaptive_average(state, (3,)), [1.5, 14 / 3, 12.0], rtol=1e-6)
    with pytest.raises(ValueError, match=r"\(2, 2\) down to \(3, 2\)"):
        adaptive_average(jnp.zeros((2, 2)), (3, 2))
