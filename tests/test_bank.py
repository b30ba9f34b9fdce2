"""Bins of complexity, and the bank that holds one kernel set for each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import PUPPETEERS, close, drawn, images_of, measured, model_of

import puppet_jax as pj
from puppet_jax.bank import Bank, make_bank

SHAPES = ((4, 2, 3, 3), (6, 4, 1, 1))


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


@pytest.mark.parametrize("options", [{"bin": 0.5}, {"bin": 1.0, "base": "e"}, {"bin": None}, {"depth": "full"}])
def test_a_model_measures_to_the_middle_of_the_bin(options):
    model, images = model_of(**options), images_of()
    h, depth = measured(model, images)
    exact = pj.complexity(images, base=options.get("base", 2))
    width = options.get("bin", 0.25)
    if width is None:
        np.testing.assert_allclose(h, exact, atol=1e-5)
    else:
        np.testing.assert_allclose(h, (np.floor(np.asarray(exact) / width) + 0.5) * width, rtol=1e-6)
    full = options.get("depth") == "full"
    np.testing.assert_array_equal(depth, 3 if full else pj.depth(h, 3))  # that of the bin, not the image's own


@pytest.mark.usefixtures("no_type_checker")
@pytest.mark.parametrize(
    "options",
    [
        *({"bin": width} for width in (0, -0.25, 8.01, float("nan"), float("inf"))),
        {"base": 10},
        {"spectrum": "power"},
        {"pixel_weight": 2.0},
        {"depth": "half"},
    ],
)
def test_a_bad_measurement_is_refused(options):
    with pytest.raises(ValueError, match=f"Measure: {next(iter(options))} must"):
        pj.Measure(**options)


def test_without_bins_there_are_no_centres():
    with pytest.raises(ValueError, match=r"such as bin=0\.25"):
        _ = pj.Measure(bin=None).centres


@pytest.mark.parametrize("name", list(PUPPETEERS))
def test_a_bank_holds_the_kernels_of_each_complexity(name):
    puppeteer, complexities = drawn(lambda: PUPPETEERS[name](SHAPES)), jnp.array([0.1, 3.3, 6.9])
    made = jax.jit(lambda h: make_bank(puppeteer, h, 5).kernels)(complexities)
    bank = Bank(made, make_bank(puppeteer, complexities, 5).firsts)
    each = [jax.jit(puppeteer)(h) for h in complexities]
    assert [kernels.shape[1:] for kernels in bank.kernels] == [(3, 3, 2, 4), (1, 1, 4, 6)]
    sets = jnp.array([4, 5, 7, 8])
    if name == "stored":
        assert bank.firsts is None
        assert [len(kernels) for kernels in bank.kernels] == [1, 1]
        np.testing.assert_array_equal(bank.indices(sets), np.zeros((2, 4)))
        assert bank.without((1, 1)) is bank
    else:
        assert bank.firsts == (5, 5)
        np.testing.assert_array_equal(bank.indices(sets), [[-1, 0, 2, -1]] * 2)
        np.testing.assert_array_equal(bank.holds(sets), [False, True, True, False])
    for layer, kernels in enumerate(bank.kernels):
        wanted = jnp.stack([kernel[layer] for kernel in each]).transpose(0, 3, 4, 2, 1)
        assert close(kernels, wanted[: len(kernels)], 1e-4)


def test_a_bank_may_lack_the_sets_that_only_shallow_images_would_choose():
    kernels = tuple(jnp.arange(4.0).reshape(4, 1, 1, 1, 1) + 10 * layer for layer in range(2))
    bank = Bank(kernels, (2, 2)).without((0, 3))
    assert bank.firsts == (2, 5)
    np.testing.assert_array_equal(bank.kernels[1].ravel(), [13.0])
    sets = jnp.array([1, 2, 4, 5, 6])
    np.testing.assert_array_equal(bank.indices(sets), [[-1, 0, 2, 3, -1], [-1, -1, -1, 0, -1]])
    np.testing.assert_array_equal(bank.holds(sets), [False, True, True, True, False])  # as far as any layer has one
