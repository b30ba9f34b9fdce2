import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx

import puppet_jax as pj
from puppet_jax.puppeteers.channel_matrices import ChannelMatrices
from puppet_jax.puppeteers.combine import combine
from puppet_jax.puppeteers.standardise import standardise

SHAPES = [(6, 2, 3, 3), (6, 6, 5, 5), (4, 6, 3, 3), (4, 4, 1, 1)]


def make(shapes=SHAPES, **options):
    options = {"basis": 3, "hidden": 5, **options}
    return pj.ContinuousPuppeteer(shapes, rngs=nnx.Rngs(params=3), **options)


def value(parameter):
    return np.asarray(parameter[...], np.float64)


def psi(puppeteer, x, y, s):
    """The implicit function at one point, in float64: (C_out,max, C_in,max)."""
    network, matrices = puppeteer.network, puppeteer.matrices
    z = np.array([x, y, s], np.float64)
    for weight, bias in zip(network.weights, network.biases, strict=True):
        z = np.sin(z @ value(weight) + value(bias))
    return np.tensordot(z @ value(network.coefficients), value(matrices.matrices), axes=1)


@pytest.mark.parametrize("h", [0.0, 2.2, 6.7])
@pytest.mark.parametrize("conditioning", ["depth", "none"])
def test_kernels_are_the_function_tap_by_tap(h, conditioning):
    puppeteer = make(standardise=False, conditioning=conditioning)
    for layer, (kernel, shape) in enumerate(zip(puppeteer(h), SHAPES, strict=True), start=1):
        assert kernel.shape == shape
        s = layer / len(SHAPES) if conditioning == "none" else layer * reference.step_size(h)
        k = shape[2]
        for row in range(k):
            for column in range(k):
                x, y = (2 * i / (k - 1) - 1 if k > 1 else 0.0 for i in (column, row))
                expected = reference.adaptive_average(psi(puppeteer, x, y, s), shape[:2])
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
    for parameter, gradient in (
        (puppeteer.network.coefficients, found["network"]["coefficients"]),
        (puppeteer.matrices.matrices, found["matrices"]["matrices"]),
    ):
        index = (1,) * parameter[...].ndim
        centre, values = parameter[...], []
        for sign in (1, -1):
            parameter[...] = centre.at[index].add(sign * step)
            values.append((float(parameter[...][index]), loss()))
        parameter[...] = centre
        (a, up), (b, down) = values
        assert float(gradient[...][index]) == pytest.approx((up - down) / (a - b), rel=2e-3)


@pytest.mark.usefixtures("no_type_checker")
@pytest.mark.parametrize(
    "options",
    [
        {"basis": 0},
        {"hidden": 0},
        {"hidden_layers": 0},
        {"omega": 0.0},
        {"omega_depth": -1.0},
        {"rank": 0},
        {"channels": "tensor"},
        {"conditioning": "yes"},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        make(**options)


@pytest.mark.parametrize("hidden_layers", [1, 3])
def test_coefficients_start_with_variance_one(hidden_layers):
    shapes = [(8, 8, 3, 3)] * 8
    options = {"basis": 64, "hidden": 64, "hidden_layers": hidden_layers}
    made = [pj.ContinuousPuppeteer(shapes, **options, rngs=nnx.Rngs(seed)) for seed in range(8)]
    variance = np.mean([np.square(p._evaluate(jnp.float32(6.7))).mean() for p in made])
    assert 0.6 < variance < 1.6


def test_frequencies_along_depth_have_a_scale_of_their_own():
    same, other = make(hidden=64, omega=5.0), make(hidden=64, omega=5.0, omega_depth=50.0)
    (a, b) = (value(made.network.weights[0]) for made in (same, other))
    np.testing.assert_allclose(b, a * [[1.0], [1.0], [10.0]], rtol=1e-5)
    for row in a:  # uniform over (-omega / 3, omega / 3)
        assert 0.9 * 5.0 / 3 < np.abs(row).max() <= 5.0 / 3


@pytest.mark.parametrize(("kind", "stored", "rank"), [("basis", 64 * 120, 10), ("low_rank", 64 * 2 * 22, 2)])
def test_channel_matrices(kind, stored, rank):
    made = ChannelMatrices(kind, 64, 12, 10, scale=0.3, rank=2, rngs=nnx.Rngs(0))
    matrices = np.asarray(made())
    assert matrices.shape == (64, 12, 10)
    assert np.sqrt(np.mean(matrices**2)) == pytest.approx(0.3, rel=0.3)
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(made, nnx.Param))) == stored
    assert all(np.linalg.matrix_rank(m, tol=1e-4) == rank for m in matrices)


@pytest.mark.parametrize("channels", ["basis", "low_rank"])
def test_every_parameter_gets_a_finite_gradient(channels):
    puppeteer = make(channels=channels, basis=4)
    weights = [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(SHAPES)]
    for h in (0.0, 5.0):
        found = nnx.grad(lambda p, h=h: sum((w * k).sum() for w, k in zip(weights, p(h), strict=True)))(puppeteer)
        for path, leaf in jax.tree.leaves_with_path(found):
            assert np.isfinite(leaf).all(), path
            assert h == 0.0 or np.abs(leaf).max() > 0, path


def test_kernels_are_standardised_as_any_other():
    plain, standardised = make(standardise=False), make()
    for a, b in zip(plain(5.0), standardised(5.0), strict=True):
        np.testing.assert_allclose(b, standardise(a), rtol=2e-3, atol=1e-4)


def test_weighted_sums_of_matrices_under_every_transformation(rng):
    a, b = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((2, 5, 3), (3, 7)))

    def everything(product, a, b):
        batch = jax.vmap(product, (0, None))
        cubes = lambda a, b: jnp.sum(batch(a, b) ** 3)  # noqa: E731
        second = jax.jvp(jax.grad(cubes, (0, 1)), (a, b), (b[0, 0] * a, a[0, 0, 0] * b))
        return second, batch(a, b), jax.vmap(product)(a, jnp.stack([b, -b])), product(a[0], b)

    found, wanted = everything(combine, a, b), everything(jnp.matmul, a, b)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-3)
