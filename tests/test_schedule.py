import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given

import puppet_jax as pj

complexities = st.floats(0.0, 8.0, width=32)
EVERY = (pj.step_size, pj.depth, pj.initial_value, pj.depth_clipped)


@given(complexities, complexities)
def test_closed_forms_ranges_and_monotonicity(a, b):
    for h in (a, b):
        assert float(pj.step_size(h)) == pytest.approx(reference.step_size(h), rel=1e-5)
        assert float(pj.initial_value(h)) == pytest.approx(reference.initial_value(h), rel=1e-5, abs=1e-30)
        inverse = 1 / reference.step_size(h)
        if abs(inverse - round(inverse)) > 1e-4 or h < 0.05:
            assert int(pj.depth(h)) == int(np.floor(inverse + 1e-9))
    low, high = min(a, b), max(a, b)
    assert 0 < float(pj.step_size(high)) <= float(pj.step_size(low)) <= 1
    assert 0 <= float(pj.initial_value(low)) <= float(pj.initial_value(high)) < np.e
    assert 1 <= int(pj.depth(low)) <= int(pj.depth(high)) <= 9


@pytest.mark.usefixtures("optimised")  # tanh is rougher without
def test_limit_at_zero_in_value_and_gradient():
    tiny = jnp.array([0.0, 1e-30, 1e-6, 0.049, 0.05, 0.051, 0.1])
    for function, limit in ((pj.step_size, 1.0), (pj.initial_value, 0.0)):
        np.testing.assert_allclose(function(tiny), limit, rtol=1e-6, atol=1e-30)
        gradients = jax.jit(jax.vmap(jax.grad(function)))(tiny)
        assert np.isfinite(gradients).all()
        np.testing.assert_allclose(gradients, 0, atol=1e-6)
    np.testing.assert_array_equal(pj.depth(tiny), 1)


def test_depth_is_clipped_and_says_so_for_any_batch_shape():
    h = np.array([0.0, 2.5, 6.5, 7.9])
    np.testing.assert_array_equal(pj.depth(h), [1, 2, 6, 7])
    np.testing.assert_array_equal(pj.depth(h, 5), [1, 2, 5, 5])
    np.testing.assert_array_equal(pj.depth_clipped(h, 5), [False, False, True, True])
    np.testing.assert_array_equal(pj.depth(h, 6, min_depth=3), [3, 3, 6, 6])
    np.testing.assert_array_equal(pj.depth_clipped(h, 6, min_depth=3), [True, True, False, True])
    assert pj.depth(h).dtype == jnp.int32
    for function in EVERY:
        assert [function(np.full(shape, 6.5)).shape for shape in ((), (2, 1, 4), (0,))] == [(), (2, 1, 4), (0,)]


@pytest.mark.usefixtures("no_type_checker")
def test_bad_complexities_and_bounds_are_refused():
    for function in EVERY:
        for h in (-1.0, np.nan, np.inf):
            with pytest.raises(ValueError, match="finite and >= 0"):
                function(h)
    with pytest.raises(ValueError, match="max_depth must be at least 1, got 0"):
        pj.depth(3.0, 0)
    with pytest.raises(ValueError, match="min_depth"):
        pj.depth(3.0, 4, min_depth=0)
