"""Complexity in bins."""

import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from small import images_of, measured, model_of

import puppet_jax as pj


@given(h=st.floats(0, 8), width=st.sampled_from([1 / 16, 0.25, 0.3, 1, 3, 8]))
def test_a_bins_centre_is_within_half_a_bin(h, width):
    measure = pj.Measure(bin=width)
    centre = float(measure.centres[int(measure.index(jnp.float32(h)))])
    assert abs(centre - h) <= width / 2 + 1e-5
    assert 0 <= centre <= 8


@pytest.mark.parametrize(
    ("options", "count", "first", "last"),
    [
        ({}, 32, 0.125, 7.875),
        ({"bin": 1}, 8, 0.5, 7.5),
        ({"bin": 8}, 1, 4.0, 4.0),
        ({"bin": 0.3}, 27, 0.15, 7.9),  # the last is cut off at 8 bits
        ({"bin": 0.5, "base": "e"}, 12, 0.25, (5.5 + 8 * np.log(2)) / 2),
        ({"bin": 8, "base": "e"}, 1, 4 * np.log(2), 4 * np.log(2)),
    ],
)
def test_bins_cover_what_complexity_can_be(options, count, first, last):
    measure = pj.Measure(**options)
    centres = measure.centres
    assert len(centres) == count
    np.testing.assert_allclose(centres[[0, -1]], [first, last], rtol=1e-6)
    np.testing.assert_array_equal(measure.index(jnp.asarray(centres)), np.arange(count))
    most = 8.0 if measure.base == 2 else 8 * np.log(2)
    np.testing.assert_array_equal(measure.index(jnp.array([0.0, most, most + 1e-3])), [0, count - 1, count - 1])


def test_a_bin_begins_at_its_lower_edge():
    edges = np.float32([0.25, 0.5, 6.75])
    index = pj.Measure().index
    np.testing.assert_array_equal(index(jnp.asarray(edges)), [1, 2, 27])
    np.testing.assert_array_equal(index(jnp.asarray(np.nextafter(edges, np.float32(0)))), [0, 1, 26])


@pytest.mark.parametrize(
    "options",
    [
        {"bin": 0.5},
        {"bin": 1.0, "base": "e"},
        {"depth": "full"},
        {"depth": -1},
        {"depth": -2},
        {"bin": None},
        {"bin": None, "spectrum": "magnitude"},
        {"bin": None, "pixel_weight": 1.0},
    ],
    ids=str,
)
def test_a_model_measures_what_it_says_to_the_middle_of_the_bin(options):
    model, images = model_of(**options), images_of()
    h, depth = measured(model, images)
    exact = pj.complexity(images, **{k: v for k, v in options.items() if k not in ("bin", "depth")})
    width = options.get("bin", 0.25)
    if width is None:  # in a spectrum of 64 numbers, one that rounds across a level is worth a thirtieth of a bit
        np.testing.assert_allclose(h, exact, atol=0.05)
    else:
        np.testing.assert_allclose(h, (np.floor(np.asarray(exact) / width) + 0.5) * width, rtol=1e-6)
    rule = options.get("depth", 0)
    expected = 2 if rule == "full" else np.clip(np.asarray(pj.depth(h)) + rule, 1, 2)  # that of the bin, not its own
    np.testing.assert_array_equal(depth, expected)


@pytest.mark.usefixtures("no_type_checker")
@pytest.mark.parametrize(
    "options",
    [
        *({"bin": width} for width in (0, -0.25, 8.01, float("nan"), float("inf"))),
        {"base": 10},
        {"spectrum": "power"},
        {"pixel_weight": 2.0},
        {"depth": "half"},
        {"depth": 0.5},
        {"depth": True},
        {"depth": 9},
    ],
)
def test_a_bad_measurement_is_refused(options):
    with pytest.raises(ValueError, match=f"Measure: {next(iter(options))} must"):
        pj.Measure(**options)


def brightness(images):
    return 8.0 * jnp.mean(images.astype(jnp.float32) / 255, axis=(-3, -2, -1))


def test_a_measure_of_one_s_own():
    model, images = model_of(function=f"{__name__}:brightness", bin=None), images_of()
    h, depth = measured(model, images)
    np.testing.assert_allclose(h, brightness(images), rtol=1e-6)
    np.testing.assert_array_equal(depth, pj.depth(h, 2))
    with pytest.raises(ValueError, match="nowhere_else:measure: cannot be imported here"):
        pj.Measure(function="nowhere_else:measure")


def test_without_bins_there_are_no_centres():
    with pytest.raises(ValueError, match=r"such as bin=0\.25"):
        _ = pj.Measure(bin=None).centres
