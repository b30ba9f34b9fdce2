"""Complexity, and the three numbers that follow from it."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import scipy.stats
from hypothesis import given

import puppet_jax as pj

# Few shapes, many contents: every new shape is compiled anew.
SHAPES = [(1, 1, 1), (1, 6, 2), (7, 8, 4)]
STEERING = (pj.step_size, pj.depth, pj.initial_value)
compiled = jax.jit(pj.complexity)


@pytest.fixture
def photo(rng):
    """A smooth image with noise: pixels and spectrum far from uniform."""
    y, x = np.mgrid[0:32, 0:32] / 32
    waves = np.stack([np.sin(5 * x + c) * np.cos(7 * y) for c in range(3)], axis=-1)
    return np.clip(120 + 90 * waves + 10 * rng.standard_normal((32, 32, 3)), 0, 255).astype(np.uint8)


def test_entropy_is_scipys(rng):
    levels = rng.binomial(255, 0.2, size=(5, 400)).astype(np.uint8)
    counts = np.stack([np.bincount(row, minlength=256) for row in levels])
    np.testing.assert_allclose(pj.entropy(levels), scipy.stats.entropy(counts, axis=1, base=2), atol=1e-6)
    assert float(pj.entropy(np.zeros(400, np.uint8))) == 0.0
    assert float(pj.entropy(np.arange(256))) == 8.0


def test_frequency_map_is_numpys_fft(photo):
    found = np.asarray(jax.jit(pj.frequency_map)(photo))
    for c in range(3):
        expected = reference.frequency_levels(photo[..., c] / 255)
        assert np.mean(found[..., c] != expected) < 1e-3  # a level may round the other way in float32
        assert np.abs(found[..., c] - expected).max() <= 1


@given(st.sampled_from(SHAPES), st.integers(0, 2**32 - 1), st.integers(2, 256))
def test_complexity_is_the_definition_and_in_range(shape, seed, colours):
    image = (np.random.default_rng(seed).integers(0, colours, shape) * (255 // (colours - 1))).astype(np.uint8)
    # On n pixels, two conjugate frequencies that round the other way in float32 move 2/n of the distribution.
    n = image.shape[0] * image.shape[1]
    found = float(compiled(image))
    assert found == pytest.approx(reference.complexity(image), abs=1e-4 + np.log2(n + 1) / n)
    assert 0.0 <= found <= 8.0


@pytest.mark.parametrize("size", [8, 9, 32])
def test_one_bright_pixel_has_a_flat_spectrum(size):
    image = np.zeros((size, size, 1), np.uint8)
    image[2, 3] = 200
    np.testing.assert_array_equal(pj.frequency_map(image), 0)


@pytest.mark.usefixtures("optimised")
def test_an_image_has_the_same_number_in_any_batch_and_transformation(photo):
    parts = [photo[i : i + 8, j : j + 8] for i in range(0, 24, 4) for j in (0, 8, 16, 24)]
    batch = np.stack([part // divisor * divisor for divisor in (1, 9, 80) for part in parts]).reshape(24, 3, 8, 8, 3)
    expected = np.array([[compiled(image) for image in row] for row in batch])
    assert expected.std() > 0.3
    np.testing.assert_array_equal(pj.complexity(batch), expected)  # eagerly
    np.testing.assert_array_equal(compiled(batch), expected)
    np.testing.assert_array_equal(jax.vmap(pj.complexity)(batch), expected)
    np.testing.assert_allclose(compiled(photo), reference.complexity(photo), atol=1e-3)
    np.testing.assert_allclose(compiled(photo / np.float32(255)), compiled(photo), atol=1e-3)


@pytest.mark.parametrize("value", [0, 7, 255])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (32, 32)])
def test_constant_images(value, size):
    image = np.full((*size, 3), value, np.uint8)
    h = float(compiled(image))
    assert h == pytest.approx(reference.complexity(image), abs=1e-6)
    if value == 0 or size == (1, 1):
        assert (h, float(pj.step_size(h)), int(pj.depth(h)), float(pj.initial_value(h))) == (0.0, 1.0, 1, 0.0)


def test_no_gradient_flows_and_none_is_nan(photo):
    gradient = jax.jit(jax.grad(pj.complexity))
    for image in (photo / np.float32(255), np.zeros(photo.shape, np.float32)):
        np.testing.assert_array_equal(gradient(jnp.asarray(image, jnp.float32)), np.zeros_like(image))


@pytest.mark.usefixtures("no_type_checker")
@pytest.mark.parametrize(
    ("images", "error", "words"),
    [
        (np.zeros((8, 8), np.uint8), ValueError, "(..., height, width, channels)"),
        (np.zeros((0, 8, 8, 3), np.uint8), ValueError, "empty"),
        (np.zeros((8, 8, 3), np.int32), TypeError, "uint8 or floats"),
        (np.full((8, 8, 3), np.nan, np.float32), ValueError, "NaN"),
        (np.full((8, 8, 3), 255.0, np.float32), ValueError, "divide by 255"),
        (np.full((8, 8, 3), -0.1, np.float32), ValueError, "[0, 1]"),
    ],
)
@pytest.mark.parametrize("function", [pj.complexity, pj.frequency_map])
def test_bad_images_are_refused(function, images, error, words):
    with pytest.raises(error) as info:
        function(images)
    assert words in str(info.value)
    assert function.__name__ in str(info.value)


@pytest.mark.usefixtures("no_type_checker")
def test_bad_levels_are_refused():
    with pytest.raises(ValueError, match=r"0\.\.255"):
        pj.entropy(np.array([1, 256]))
    with pytest.raises(TypeError, match="integers"):
        pj.entropy(np.array([0.5]))
    with pytest.raises(ValueError, match="at least one value"):
        pj.entropy(np.zeros((3, 0), np.uint8))


def test_what_cannot_be_refused_under_jit_is_nan():
    image = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8, 1)
    batch = np.concatenate([image, 2 * image, image - 0.5, np.where(image > 0.9, np.nan, image)])
    np.testing.assert_array_equal(np.isnan(compiled(batch)), [False, True, True, True])
    levels = np.array([[0, 0, 255], [0, 0, -1], [0, 0, 300], [0, 0, 2**20]])
    np.testing.assert_array_equal(np.isnan(jax.jit(pj.entropy)(levels)), [False, True, True, True])


def test_values_that_are_closed_over_are_checked_like_arguments():
    image, h, levels = jnp.full((8, 8, 1), 0.5), jnp.float32([1, 5]), jnp.arange(9)
    for function, good, bad in ((pj.complexity, image, image + 1), (pj.entropy, levels, levels - 1), (pj.depth, h, -h)):
        np.testing.assert_array_equal(jax.jit(lambda f=function, x=good: f(x))(), function(good))
        for values in (bad, np.asarray(bad)):
            with pytest.raises(ValueError, match="must"):
                jax.jit(lambda f=function, x=values: f(x))()


@given(st.floats(0.0, 8.0, width=32), st.floats(0.0, 8.0, width=32))
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
    np.testing.assert_array_equal(pj.depth_clipped(h, 6), [False, False, False, True])  # 6 layers asked for, and there
    assert pj.depth(h).dtype == jnp.int32
    for function in STEERING:
        assert [function(np.full(shape, 6.5)).shape for shape in ((), (2, 1, 4), (0,))] == [(), (2, 1, 4), (0,)]


@pytest.mark.usefixtures("no_type_checker")
def test_bad_complexities_and_bounds_are_refused():
    for function in (*STEERING, lambda h: pj.depth_clipped(h, 7)):
        for h in (-1.0, np.nan, np.inf):
            with pytest.raises(ValueError, match=r"finite and >= 0.*puppet_jax\.complexity"):
                function(h)
    with pytest.raises(ValueError, match="max_depth must be at least 1, got 0"):
        pj.depth(3.0, 0)
