import os

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
OPTIONS = [{}, {"base": "e"}, {"spectrum": "magnitude"}, {"pixel_weight": 1.0}]
compiled = {str(options): jax.jit(lambda x, options=options: pj.complexity(x, **options)) for options in OPTIONS}


@pytest.fixture
def photo(rng):
    """A smooth image with noise: pixels and spectrum far from uniform."""
    y, x = np.mgrid[0:32, 0:32] / 32
    waves = np.stack([np.sin(5 * x + c) * np.cos(7 * y) for c in range(3)], axis=-1)
    return np.clip(120 + 90 * waves + 10 * rng.standard_normal((32, 32, 3)), 0, 255).astype(np.uint8)


def test_entropy_is_scipys(rng):
    levels = rng.binomial(255, 0.2, size=(5, 400)).astype(np.uint8)
    counts = np.stack([np.bincount(row, minlength=256) for row in levels])
    for base in (2, "e"):
        expected = scipy.stats.entropy(counts, axis=1, base=2 if base == 2 else None)
        np.testing.assert_allclose(pj.entropy(levels, base=base), expected, atol=1e-5)
    assert float(pj.entropy(np.zeros(400, np.uint8))) == 0.0
    np.testing.assert_allclose(pj.entropy(np.arange(256)), 8.0, atol=1e-5)


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
    found = float(compiled["{}"](image))
    assert found == pytest.approx(reference.complexity(image), abs=1e-4 + np.log2(n + 1) / n)
    assert 0.0 <= found <= 8.0


@pytest.mark.parametrize("size", [8, 9, 32])
def test_one_bright_pixel_has_a_flat_spectrum(size):
    image = np.zeros((size, size, 1), np.uint8)
    image[2, 3] = 200
    np.testing.assert_array_equal(pj.frequency_map(image), 0)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_complexity_options(photo, options):
    expected = reference.complexity(
        photo,
        log=np.log if options.get("base") == "e" else np.log2,
        logarithm=options.get("spectrum") != "magnitude",
        pixel_weight=options.get("pixel_weight", 0.5),
    )
    assert float(compiled[str(options)](photo)) == pytest.approx(expected, abs=1e-3)


def test_any_batch_dtype_and_transformation(photo):
    batch = np.stack([photo, photo[::-1], photo // 2, photo.T.reshape(photo.shape)]).reshape(2, 2, *photo.shape)
    one = jax.jit(pj.complexity)
    expected = np.array([[one(image) for image in row] for row in batch])
    assert one(photo).shape == ()
    np.testing.assert_allclose(pj.complexity(batch), expected, rtol=1e-6)  # eagerly
    np.testing.assert_allclose(jax.vmap(pj.complexity)(batch), expected, rtol=1e-6)
    np.testing.assert_allclose(one(photo / np.float32(255)), expected[0, 0], atol=1e-3)


@pytest.mark.parametrize("value", [0, 7, 255])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (32, 32)])
def test_constant_images(value, size):
    image = np.full((*size, 3), value, np.uint8)
    h = float(compiled["{}"](image))
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
def test_bad_options_are_refused(photo):
    with pytest.raises(ValueError, match="pixel_weight"):
        pj.complexity(photo, pixel_weight=1.5)
    with pytest.raises(ValueError, match=r"0\.\.255"):
        pj.entropy(np.array([1, 256]))
    with pytest.raises(TypeError, match="integers"):
        pj.entropy(np.array([0.5]))
    with pytest.raises(ValueError, match="at least one value"):
        pj.entropy(np.zeros((3, 0), np.uint8))
    with pytest.raises(ValueError, match="height, width, channels"):  # shapes under jit too
        jax.jit(pj.complexity)(np.zeros((8, 8), np.uint8))


def test_cifar10_agrees_with_float64():
    tfds = pytest.importorskip("tensorflow_datasets", reason="needs the data set CIFAR-10, read by tensorflow-datasets")
    if "TFDS_DATA_DIR" not in os.environ:
        pytest.skip("needs the data set CIFAR-10: set TFDS_DATA_DIR to where tensorflow-datasets prepared it")
    try:
        source = tfds.data_source("cifar10", split="test")
    except Exception as error:  # tfds raises many kinds for a set that is not prepared
        pytest.skip(f"needs the data set CIFAR-10, which TFDS_DATA_DIR does not hold: {type(error).__name__}")
    images = np.stack([source[i]["image"] for i in range(1000)])
    found = np.asarray(pj.complexity(images))
    expected = np.array([reference.complexity(image) for image in images])
    np.testing.assert_allclose(found, expected, atol=1e-3)
    inverse = 1 / np.tanh(1 / expected)
    settled = np.abs(inverse - np.round(inverse)) > 1e-4
    np.testing.assert_array_equal(np.asarray(pj.depth(found))[settled], np.floor(inverse)[settled])
