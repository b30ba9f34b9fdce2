import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import puppet_jax as pj


@given(h=st.floats(0, 8), bin=st.sampled_from([1 / 16, 0.25, 0.3, 1, 3, 8]))
def test_a_bins_centre_is_within_half_a_bin(h, bin):
    measure = pj.Measure(bin=bin)
    index = int(measure.index(jnp.float32(h)))
    assert abs(float(measure.centres[index]) - h) <= bin / 2 + 1e-5
    assert 0 <= float(measure.centres[index]) <= 8


def test_bins_cover_all_that_complexity_can_be():
    np.testing.assert_allclose(pj.Measure(bin=0.25).centres, 0.125 + 0.25 * np.arange(32))
    np.testing.assert_allclose(pj.Measure(bin=3).centres, [1.5, 4.5, 7.0])  # the last bin ends at 8
    np.testing.assert_allclose(pj.Measure(bin=8).centres, [4.0])
    np.testing.assert_allclose(pj.Measure(bin=1, base="e").centres[-1], (5 + 8 * math.log(2)) / 2, rtol=1e-6)
    edges = jnp.asarray([0.0, 0.2499, 0.25, 7.9999, 8.0, 8.0001])
    assert pj.Measure(bin=0.25).index(edges).tolist() == [0, 0, 1, 31, 31, 31]


def test_complexity_and_depth_follow_from_the_centre(rng):
    images = np.stack([rng.integers(0, n, (8, 8, 3)) * (255 // max(n - 1, 1)) for n in (1, 2, 8, 256)]).astype(np.uint8)
    exact, _ = pj.Measure(bin=None)(jnp.asarray(images), 8)
    np.testing.assert_array_equal(exact, pj.complexity(images))
    for measure in (pj.Measure(), pj.Measure(bin=1.5), pj.Measure(bin=0.1, base="e", pixel_weight=1)):
        h, d = measure(jnp.asarray(images), 8)
        own = pj.complexity(images, base=measure.base, pixel_weight=float(measure.pixel_weight))
        np.testing.assert_array_equal(h, measure.centres[np.asarray(measure.index(own))])
        np.testing.assert_array_equal(measure.index(h), measure.index(own))
        np.testing.assert_array_equal(d, pj.depth(h, 8))
    assert np.asarray(pj.Measure(depth="full")(jnp.asarray(images), 5)[1]).tolist() == [5] * 4


def test_a_constant_image_is_legal_and_has_a_finite_gradient():
    model = pj.create("puppet_xs", width=4, in_channels=1, rngs=nnx_rngs())
    black = np.zeros((1, 8, 8, 1), np.float32)
    assert model.measure(black)[1].tolist() == [1]
    assert np.isfinite(jax.grad(lambda x: model(x).sum())(black)).all()


def nnx_rngs():
    from flax import nnx

    return nnx.Rngs(0)


@pytest.mark.parametrize("bin", [0, -0.25, 8.5, math.inf, math.nan])
def test_a_bad_bin_is_refused(bin):
    with pytest.raises(ValueError, match="bin must be above 0 and at most 8"):
        pj.Measure(bin=bin)


def test_without_bins_there_are_no_centres():
    with pytest.raises(ValueError, match="no bins"):
        _ = pj.Measure(bin=None).centres
