import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given

import puppet_jax as pj

complexities = st.floats(0.0, 8.0, width=32)


@given(complexities)
def test_against_closed_forms(h):
    assert float(pj.step_size(h)) == pytest.approx(reference.step_size(h), rel=1e-5)
    assert float(pj.initial_value(h)) == pytest.approx(reference.initial_value(h), rel=1e-5, abs=1e-30)
    inverse = 1 / reference.step_size(h)
    if abs(inverse - round(inverse)) > 1e-4 or h < 0.05:
        assert int(pj.depth(h)) == int(np.floor(inverse + 1e-9))


@given(complexities, complexities)
def test_ranges_and_monotonicity(a, b):
    low, high = min(a, b), max(a, b)
    assert 0 < float(pj.step_size(high)) <= float(pj.step_size(low)) <= 1
    assert 0 <= float(pj.initial_value(low)) <= float(pj.initial_value(high)) < np.e
    assert 1 <= int(pj.depth(low)) <= int(pj.depth(high)) <= 9


def test_limit_at_zero_in_value_and_gradient():
    tiny = jnp.array([0.0, 1e-30, 1e-6, 0.049, 0.05, 0.051, 0.1])
    for function, limit in ((pj.step_size, 1.0), (pj.initial_value, 0.0)):
        np.testing.assert_allclose(function(tiny), limit, atol=1e-30)
        gradients = jax.vmap(jax.grad(function))(tiny)
        assert np.isfinite(gradients).all()
        np.testing.assert_allclose(gradients, 0, atol=1e-6)
    np.testing.assert_array_equal(pj.depth(tiny), 1)


@pytest.mark.parametrize("shape", [(), (3,), (2, 1, 4), (0,)])
def test_any_batch_shape(shape):
    h = np.full(shape, 6.5, np.float32)
    for function in (pj.step_size, pj.depth, pj.initial_value, pj.depth_clipped):
        assert function(h).shape == shape


def test_depth_is_clipped_and_says_so():
    h = np.array([0.0, 2.5, 6.5, 7.9])
    np.testing.assert_array_equal(pj.depth(h), [1, 2, 6, 7])
    np.testing.assert_array_equal(pj.depth(h, 5), [1, 2, 5, 5])
    np.testing.assert_array_equal(pj.depth_clipped(h, 5), [False, False, True, True])
    np.testing.assert_array_equal(pj.depth(h, 6, min_depth=3), [3, 3, 6, 6])
    np.testing.assert_array_equal(pj.depth_clipped(h, 6, min_depth=3), [True, True, False, True])
    assert pj.depth(h).dtype == jnp.int32


@pytest.mark.usefixtures("no_type_checker")
@pytest.mark.parametrize("function", [pj.step_size, pj.depth, pj.initial_value, pj.depth_clipped])
@pytest.mark.parametrize("h", [-1.0, np.nan, np.inf])
def test_bad_complexity_is_refused(function, h):
    with pytest.raises(ValueError, match="finite and >= 0"):
        function(h)


@pytest.mark.usefixtures("no_type_checker")
def test_bad_bounds_are_refused():
    with pytest.raises(ValueError, match="max_depth must be at least 1, got 0"):
        pj.depth(3.0, 0)
    with pytest.raises(ValueError, match="min_depth"):
        pj.depth(3.0, 4, min_depth=0)
