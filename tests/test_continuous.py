import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx

import puppet_jax as pj

SHAPES = [(6, 2, 3, 3), (6, 6, 5, 5), (4, 6, 3, 3), (4, 4, 1, 1)]


def make(shapes=SHAPES, **options):
    options = {"basis": 3, "hidden": 5, **options}
    return pj.ContinuousPuppeteer(shapes, rngs=nnx.Rngs(params=3), **options)


def psi(puppeteer, x, y, s, *more):
    """The implicit function at one point, in float64: (C_out,max, C_in,max)."""
    z = np.array([x, y, s, *more], np.float64)
    for weight, bias in zip(puppeteer.weights, puppeteer.biases, strict=True):
        z = np.sin(puppeteer.omega * (z @ np.asarray(weight[...], np.float64) + np.asarray(bias[...], np.float64)))
    coefficients = z @ np.asarray(puppeteer.coefficients[...], np.float64)
    return np.tensordot(coefficients, np.asarray(puppeteer.basis[...], np.float64), axes=1)


@pytest.mark.parametrize("h", [0.0, 2.2, 6.7])
@pytest.mark.parametrize("with_initial_value", [False, True])
def test_kernels_are_the_function_tap_by_tap(h, with_initial_value):
    puppeteer = make(standardise=False, initial_value_coordinate=with_initial_value)
    more = [reference.initial_value(h) / np.e] if with_initial_value else []
    for layer, (kernel, shape) in enumerate(zip(puppeteer(h), SHAPES, strict=True), start=1):
        assert kernel.shape == shape
        s, k = layer * reference.step_size(h), shape[2]
        for row in range(k):
            for column in range(k):
                x, y = (2 * i / (k - 1) - 1 if k > 1 else 0.0 for i in (column, row))
                expected = reference.adaptive_average(psi(puppeteer, x, y, s, *more), shape[:2])
                np.testing.assert_allclose(kernel[:, :, row, column], expected, rtol=1e-3, atol=2e-4)


def test_a_larger_kernel_is_the_same_function_sampled_finer():
    small, large = make([(6, 6, 3, 3)] * 2, standardise=False), make([(6, 6, 5, 5)] * 2, standardise=False)
    for a, b in zip(small(5.0), large(5.0), strict=True):
        np.testing.assert_allclose(b[:, :, ::2, ::2], a, rtol=1e-4, atol=1e-5)


def test_batch_is_a_loop():
    puppeteer = make()
    hs = jnp.array([0.0, 3.1, 6.9])
    batch = jax.jit(jax.vmap(puppeteer))(hs)
    for i, h in enumerate(hs):
        for found, expected in zip(batch, puppeteer(h), strict=True):
            np.testing.assert_allclose(found[i], expected, rtol=1e-3, atol=1e-4)


def test_kernels_depend_on_complexity_and_stored_ones_do_not():
    continuous, stored = make(), pj.StoredPuppeteer(SHAPES, rngs=nnx.Rngs(0))
    assert float(jnp.abs(continuous(3.0)[0] - continuous(6.0)[0]).max()) > 1e-2
    for a, b in zip(stored(3.0), stored(6.0), strict=True):
        np.testing.assert_array_equal(a, b)


def test_parameter_counts_of_the_report():
    shapes = [(32, 3, 3, 3)] + [(32, 32, 3, 3)] * 6
    for basis, expected in ((4, 5408), (16, 18080), (32, 34976)):
        state = nnx.state(pj.ContinuousPuppeteer(shapes, basis=basis, rngs=nnx.Rngs(0)), nnx.Param)
        assert sum(leaf.size for leaf in jax.tree.leaves(state)) == expected
    state = nnx.state(pj.StoredPuppeteer(shapes, rngs=nnx.Rngs(0)), nnx.Param)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 56160


def test_gradient_against_finite_differences():
    puppeteer = make(standardise=False)
    weights = [np.asarray(jax.random.normal(jax.random.key(i), shape)) for i, shape in enumerate(SHAPES)]
    found = nnx.grad(lambda p: sum((w * k).sum() for w, k in zip(weights, p(4.0), strict=True)))(puppeteer)

    def loss():
        total = 0.0
        for layer, (w, shape) in enumerate(zip(weights, SHAPES, strict=True), start=1):
            axis = np.linspace(-1, 1, shape[2]) if shape[2] > 1 else [0.0]
            for row, y in enumerate(axis):
                for column, x in enumerate(axis):
                    value = psi(puppeteer, x, y, layer * reference.step_size(4.0))
                    total += (w[:, :, row, column] * reference.adaptive_average(value, shape[:2])).sum()
        return total

    step = 2.0**-10  # exact in float32, in which the parameters are kept
    for parameter, gradient in ((puppeteer.coefficients, found["coefficients"]), (puppeteer.basis, found["basis"])):
        index = (1,) * parameter[...].ndim
        centre, values = parameter[...], []
        for sign in (1, -1):
            parameter[...] = centre.at[index].add(sign * step)
            values.append((float(parameter[...][index]), loss()))
        parameter[...] = centre
        (a, up), (b, down) = values
        assert float(gradient[...][index]) == pytest.approx((up - down) / (a - b), rel=2e-3)


@pytest.mark.parametrize("options", [{"basis": 0}, {"hidden": 0}, {"hidden_layers": 0}, {"omega": 0.0}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        make(**options)
