"""Pooling of kernels. That of maps: see test_plain.py."""

import jax.numpy as jnp
import numpy as np
import pytest

from puppet_jax.puppeteers._kernels import adaptive_average


@pytest.mark.usefixtures("no_type_checker")
def test_adaptive_average_by_hand_and_never_upwards():
    # 5 cells to 3: windows 0–1, 1–3, 3–4 (PyTorch's overlap), as computed by hand.
    state = jnp.array([1.0, 2.0, 4.0, 8.0, 16.0])
    np.testing.assert_allclose(adaptive_average(state, (3,)), [1.5, 14 / 3, 12.0], rtol=1e-6)
    with pytest.raises(ValueError, match=r"\(2, 2\) down to \(3, 2\)"):
        adaptive_average(jnp.zeros((2, 2)), (3, 2))
