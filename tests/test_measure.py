"""Complexity in bins."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from small import images_of, measured, model_of

import puppet_jax as pj


@pytest.mark.parametrize(
    ("options", "count", "first", "last"),
    [
        ({}, 32, 0.125, 7.875),
        ({"bin": 1}, 8, 0.5, 7.5),
        ({"bin": 8}, 1, 4.0, 4.0),
        ({"bin": 0.3}, 27, 0.15, 7.9),  # the last is cut off at 8 bits
    ],
)
def test_bins_cover_what_complexity_can_be(options, count, first, last):
    measure = pj.Measure(**options)
    centres = measure.centres
    assert len(centres) == count
    np.testing.assert_allclose(centres[[0, -1]], [first, last], rtol=1e-6)
    np.testing.assert_array_equal(measure.index(jnp.asarray(centres)), np.arange(count))
    np.testing.assert_array_equal(measure.index(jnp.array([0.0, 8.0, 8.001, np.nan])), [0, count - 1, count - 1, -1])


def test_a_bin_begins_at_its_lower_edge():
    edges = np.float32([0.25, 0.5, 6.75])
    index = pj.Measure().index
    np.testing.assert_array_equal(index(jnp.asarray(edges)), [1, 2, 27])
    np.testing.assert_array_equal(index(jnp.asarray(np.nextafter(edges, np.float32(0)))), [0, 1, 26])


@pytest.mark.parametrize(
    "options",
    [{"bin": 0.5}, {"bin": 1.0}, {"depth": "full"}, {"depth": 2}, {"bin": None}],
    ids=str,
)
def test_a_model_measures_what_it_says_to_the_middle_of_the_bin(options):
    model, images = model_of(**options), images_of()
    h, depth = measured(model, images)
    exact, width = pj.complexity(images), options.get("bin", 0.25)
    if width is None:
        np.testing.assert_array_equal(h, exact)
    else:
        np.testing.assert_allclose(h, (np.floor(np.asarray(exact) / width) + 0.5) * width, rtol=1e-6)
    expected = 2 if "depth" in options else pj.depth(h, max_depth=2)  # that of the bin, not its own
    np.testing.assert_array_equal(depth, expected)


@pytest.mark.usefixtures("no_type_checker")
@pytest.mark.parametrize(
    "options",
    [*({"bin": width} for width in (0, 8.01, float("nan"))), *({"depth": rule} for rule in ("half", 0.5, True, 0))],
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


def constant(images, value):
    """A measure that gives every image the same; tests set the value, which makes another function of it."""
    return jnp.full(images.shape[:-3], value)


CONSTANT = constant


@pytest.mark.parametrize(
    ("value", "puppeteer", "bin_"),
    [(np.nan, "continuous", 0.25), (np.nan, "continuous", None), (-1.0, "stored", 0.25), (9.0, "stored", None)],
)
def test_a_measure_that_gives_no_complexity_is_refused_or_nan(value, puppeteer, bin_, monkeypatch):
    monkeypatch.setattr(f"{__name__}.constant", functools.partial(CONSTANT, value=value))
    model, images = model_of("plain", puppeteer, function=f"{__name__}:constant", bin=bin_), images_of()[:2]
    with pytest.raises(ValueError, match=r"constant gives values from .* expected complexities from 0 to 8"):
        model.measure(images)
    predicted = pj.compile_predict(model)(images)
    for found in (model(images), predicted.logits, predicted.complexity):
        assert np.isnan(found).all()


def mean_of_all(images):
    return jnp.mean(images / 255)


@pytest.mark.usefixtures("no_type_checker")
def test_a_measure_of_another_shape_is_refused():
    model = model_of(function=f"{__name__}:mean_of_all")
    with pytest.raises(ValueError, match=r"mean_of_all gives shape \(\) for images \(10, 8, 8, 2\), expected \(10,\)"):
        model(images_of())


def test_a_measure_that_was_reloaded_is_another_one(monkeypatch):
    predicted = []
    for value in (2.125, 6.125):
        monkeypatch.setattr(f"{__name__}.constant", functools.partial(CONSTANT, value=value))
        model = model_of(function=f"{__name__}:constant")
        predicted.append(float(pj.compile_predict(model)(images_of()[:1]).complexity[0]))
        assert model.measurement == pj.Measure(function=f"{__name__}:constant") != pj.Measure()
    assert predicted == [2.125, 6.125]


def test_without_bins_there_are_no_centres():
    with pytest.raises(ValueError, match=r"such as bin=0\.25"):
        _ = pj.Measure(bin=None).centres
