import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx
from small import close, drawn

import puppet_jax as pj
from puppet_jax.puppeteers._continuous import ChannelMatrices
from puppet_jax.puppeteers._kernels import standardise

SHAPES = [(6, 2, 3, 3), (6, 6, 5, 5), (4, 6, 1, 3), (4, 4, 1, 1)]


def fresh(shapes=SHAPES, **options):
    options = {"basis": 3, "rank": None, "hidden": 5, **options}
    return pj.ContinuousPuppeteer(shapes, rngs=nnx.Rngs(params=3), **options)


def make(*shapes, **options):
    return drawn(lambda: fresh(*shapes, **options))


def run(puppeteer, h):
    return jax.jit(puppeteer)(h)


def value(parameter):
    return np.asarray(parameter[...], np.float64)


def psi(puppeteer, x, y, s):
    """The implicit function at one point, in float64: (C_out,max, C_in,max)."""
    network, matrices = puppeteer.network, puppeteer.matrices
    z = np.sin(np.array([x, y, s], np.float64) @ value(network.weight) + value(network.bias))
    return np.tensordot(z @ value(network.coefficients), value(matrices.matrices), axes=1)


@pytest.mark.parametrize("h", [0.0, 6.7])
@pytest.mark.parametrize(("conditioning", "hidden"), [("depth", 5), ("none", 5), ("depth", 2)])
def test_kernels_are_the_function_tap_by_tap(h, conditioning, hidden):
    puppeteer = make(standardise=False, conditioning=conditioning, hidden=hidden)
    for layer, (kernel, shape) in enumerate(zip(run(puppeteer, h), SHAPES, strict=True), start=1):
        assert kernel.shape == shape
        s = layer / len(SHAPES) if conditioning == "none" else layer * reference.step_size(h)
        for place in np.ndindex(shape[2:]):
            y, x = (2 * i / (k - 1) - 1 if k > 1 else 0.0 for i, k in zip(place, shape[2:], strict=True))
            expected = reference.adaptive_average(psi(puppeteer, x, y, s), shape[:2])
            np.testing.assert_allclose(kernel[:, :, *place], expected, rtol=1e-3, atol=2e-4)


def test_a_larger_kernel_is_the_same_function_sampled_finer():
    small, large = make([(6, 6, 3, 3)] * 2, standardise=False), make([(6, 6, 5, 5)] * 2, standardise=False)
    for a, b in zip(run(small, 5.0), run(large, 5.0), strict=True):
        np.testing.assert_allclose(b[:, :, ::2, ::2], a, rtol=1e-4, atol=1e-5)


def test_kernels_depend_on_complexity_unless_conditioning_is_none():
    for puppeteer in (make(), make(conditioning="none"), drawn(lambda: pj.StoredPuppeteer(SHAPES, rngs=nnx.Rngs(0)))):
        same = close(list(run(puppeteer, 3.0)), list(run(puppeteer, 6.0)), 1e-2)
        assert same == (not puppeteer.conditioned)


def test_parameter_counts():
    shapes = [(32, 3, 3, 3)] + [(32, 32, 3, 3)] * 6
    count = lambda make: sum(leaf.size for leaf in jax.tree.leaves(nnx.state(nnx.eval_shape(make), nnx.Param)))  # noqa: E731
    for basis, expected in ((4, 4288), (16, 16864), (32, 33632)):
        assert count(lambda b=basis: pj.ContinuousPuppeteer(shapes, basis=b, rank=None, rngs=nnx.Rngs(0))) == expected
    assert count(lambda: pj.StoredPuppeteer(shapes, rngs=nnx.Rngs(0))) == 56160


@pytest.mark.usefixtures("no_type_checker")
def test_bad_options_are_refused():
    bad = {"basis": 0, "hidden": 0, "omega": 0.0, "omega_depth": -1.0, "rank": 0}
    for name, wrong in {**bad, "conditioning": "yes"}.items():
        with pytest.raises(ValueError, match=name):
            make(**{name: wrong})


def test_coefficients_start_with_variance_one():
    shapes = [(8, 8, 3, 3)] * 8

    @jax.jit
    def coefficients(key):
        made = pj.ContinuousPuppeteer(shapes, basis=64, hidden=64, rngs=nnx.Rngs(key))
        return made.network(made._points(jnp.full(1, 6.7)))

    variance = np.mean([np.square(coefficients(jax.random.key(seed))).mean() for seed in range(8)])
    assert 0.6 < variance < 1.6


def test_frequencies_along_depth_have_a_scale_of_their_own():
    same, other = fresh(hidden=64, omega=5.0), fresh(hidden=64, omega=5.0, omega_depth=50.0)
    (a, b) = (value(made.network.weight) for made in (same, other))
    np.testing.assert_allclose(b, a * [[1.0], [1.0], [10.0]], rtol=1e-5)
    for row in a:  # uniform over (-omega / 3, omega / 3)
        assert 0.9 * 5.0 / 3 < np.abs(row).max() <= 5.0 / 3


@pytest.mark.parametrize(("rank", "stored"), [(None, 64 * 120), (2, 64 * 2 * 22)])
def test_channel_matrices(rank, stored):
    made = ChannelMatrices(64, 12, 10, scale=0.3, rank=rank, rngs=nnx.Rngs(0))
    matrices = np.asarray(made(12, 10, made.averaged([(12, 10, 3, 3)]), None)).reshape(64, 10, 12)
    assert np.sqrt(np.mean(matrices**2)) == pytest.approx(0.3, rel=0.3)
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(made, nnx.Param))) == stored
    assert all(np.linalg.matrix_rank(m, tol=1e-4) == (rank or 10) for m in matrices)


def test_kernels_are_standardised(rng):
    kernel = jnp.asarray(2.6 + rng.standard_normal((7, 4, 3, 3)), jnp.float32)
    found = np.asarray(jax.jit(standardise)(kernel), np.float64)
    np.testing.assert_allclose(found.mean(axis=(1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(found.var(axis=(1, 2, 3)), 2 / 36, rtol=1e-4)
    constant = jnp.full((7, 4, 3, 3), 2.5)  # stays zero, with a finite gradient
    np.testing.assert_allclose(standardise(constant), 0, atol=1e-4)
    assert np.isfinite(jax.jit(jax.grad(lambda k: (standardise(k) ** 2).sum()))(constant)).all()
    plain, standardised = make(standardise=False), make()
    for a, b in zip(run(plain, 5.0), run(standardised, 5.0), strict=True):
        assert close(b, standardise(a), 2e-3)


@pytest.mark.parametrize(("rank", "hidden"), [(None, 5), (2, 5), (2, 3)])
def test_every_parameter_gets_a_finite_gradient(rank, hidden):
    puppeteer = make(rank=rank, hidden=hidden, basis=4)
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in SHAPES]
    graphdef, state = nnx.split(puppeteer)
    loss = lambda state, h: sum((w * k).sum() for w, k in zip(weights, nnx.merge(graphdef, state)(h), strict=True))  # noqa: E731
    found = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(state, jnp.array([0.0, 5.0]))
    for path, leaf in jax.tree.leaves_with_path(found):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf[1]).max() > 0, path
