import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given

import puppet_jax as pj

SHAPES = [(6, 2, 3, 3), (6, 6, 3, 3), (4, 6, 3, 3), (4, 4, 1, 1), (4, 4, 3, 3)]
SOURCES = {
    "ode": lambda: pj.OdePuppeteer(SHAPES, rngs=nnx.Rngs(0)),
    "printed": lambda: pj.OdePuppeteer(SHAPES, initial="constant", standardise=False, rngs=nnx.Rngs(0)),
    "continuous": lambda: pj.ContinuousPuppeteer(SHAPES, basis=4, hidden=8, rngs=nnx.Rngs(0)),
    "stored": lambda: pj.StoredPuppeteer(SHAPES, rngs=nnx.Rngs(0)),
}


@pytest.fixture(scope="module", params=list(SOURCES))
def pair(request):
    source = SOURCES[request.param]()
    return source, pj.interpolate(source, tolerance=1e-5)


def test_reaches_its_tolerance_on_complexities_it_was_not_chosen_on(pair):
    source, fast = pair
    hs = jnp.linspace(0.013, 7.99, 101)
    exact, found = (jax.jit(jax.vmap(f))(hs) for f in (source, fast))
    depths = np.asarray(pj.depth(hs))
    for layer, (a, b) in enumerate(zip(found, exact, strict=True), start=1):
        a, b = (np.asarray(k, np.float64)[depths >= layer].reshape((depths >= layer).sum(), -1) for k in (a, b))
        scale = np.linalg.norm(b, axis=1).max()
        assert np.linalg.norm(a - b, axis=1).max() < 2e-5 * scale, layer
    assert max(pj.interpolation_error(fast)) <= 1e-5


def test_deeper_layers_need_fewer_nodes(pair):
    _, fast = pair
    assert len(fast.grid.nodes[-1]) <= len(fast.grid.nodes[0])
    for layer, (low, high) in enumerate(fast.grid.ranges, start=1):
        assert high == pytest.approx(1 / layer)  # depth D = ⌊1/dl⌋ reaches layer l exactly where dl <= 1/l
        assert low == pytest.approx(np.tanh(1 / 8))


@given(h=st.floats(0.0, 8.0, width=32))
def test_weights_sum_to_one_and_are_finite(h):
    fast = pj.interpolate(SOURCES["stored"](), nodes=9, interval=(2.0, 7.0))
    for weights in fast.grid.weights(h):
        assert np.isfinite(weights).all()
        assert float(weights.sum()) == pytest.approx(1.0, abs=1e-5)


def test_exact_on_a_node():
    source = SOURCES["ode"]()
    fast = pj.interpolate(source, nodes=5, interval=(3.0, 7.0), shared=True)
    for dl in fast.grid.nodes[0]:
        h = 1 / np.arctanh(dl)
        for a, b in zip(fast(h), source(h), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_outside_the_interval_is_clamped_and_told():
    source = SOURCES["continuous"]()
    fast = pj.interpolate(source, nodes=8, interval=(4.0, 6.0), shared=True)
    for outside, end in ((1.0, 4.0), (7.9, 6.0)):
        for a, b in zip(fast(outside), fast(end), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        fast.grid.clamped(np.array([3.9, 4.0, 5.0, 6.0, 6.1])), [True, False, False, False, True]
    )


def test_masked_layers_stay_finite_whatever_the_image():
    # A polynomial far outside its nodes overflows: a layer that the image does not reach must not be asked for one.
    fast = pj.interpolate(SOURCES["ode"](), nodes=32)
    for h in (0.0, 0.5, 2.0, 8.0):
        for kernel in fast(h):
            assert float(jnp.abs(kernel).max()) < 10


@pytest.mark.parametrize("name", ["ode", "continuous"])
@pytest.mark.parametrize("shared", [False, True])
def test_gradients_are_the_exact_ones(name, shared):
    source = SOURCES[name]()
    fast = pj.interpolate(source, nodes=24, interval=(3.5, 7.3), shared=shared)
    hs = jnp.array([3.6, 5.2, 6.9, 7.2])
    targets = [jax.random.normal(jax.random.key(i), (4, *shape)) for i, shape in enumerate(SHAPES)]
    # Where an image does not reach a layer, that layer's kernel is masked: it has no gradient.
    active = [np.asarray(pj.depth(hs) >= layer)[:, None, None, None, None] for layer in range(1, len(SHAPES) + 1)]

    def loss(puppeteer):
        kernels = jax.vmap(puppeteer)(hs)
        return sum((t * a * k).sum() for t, a, k in zip(targets, active, kernels, strict=True))

    exact, found = (jax.tree.leaves(nnx.grad(loss)(p)) for p in (source, fast))
    for a, b in zip(found, exact, strict=True):
        assert float(jnp.abs(a - b).max()) <= 1e-4 * float(jnp.abs(b).max()) + 1e-6


def test_a_batch_generates_as_many_kernel_sets_as_there_are_nodes():
    fast = pj.interpolate(SOURCES["continuous"](), nodes=3, interval=(4.0, 7.0), shared=True)
    sines = {}
    for batch in (2, 50):
        text = str(jax.make_jaxpr(jax.vmap(fast))(jnp.full((batch,), 5.0)))
        sines[batch] = [line.split(":")[1].split("=")[0].strip() for line in text.splitlines() if " sin " in line]
    assert sines[2] == sines[50]
    assert len(sines[2]) == 2
    assert all(shape.startswith("f32[3,") for shape in sines[2])


def test_a_model_with_interpolated_kernels_trains_like_the_exact_one(rng):
    model = pj.create("puppet_xs", in_channels=1, rngs=nnx.Rngs(0))
    fast = pj.PuppetCNN(pj.interpolate(model.puppeteer), model.puppet)
    images = rng.integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    np.testing.assert_allclose(fast(images), model(images), rtol=1e-3, atol=1e-3)
    a, b = (jax.tree.leaves(nnx.grad(lambda m: (m(images) ** 2).mean())(m)) for m in (fast, model))
    for x, y in zip(a, b, strict=True):
        assert float(jnp.abs(x - y).max()) <= 1e-3 * float(jnp.abs(y).max()) + 1e-6
    assert pj.summary(fast) == pj.summary(model)


def test_a_tolerance_below_rounding_takes_the_floor():
    source = SOURCES["ode"]()
    fast = pj.interpolate(source, tolerance=1e-9)
    assert max(pj.interpolation_error(fast)) < 3e-5
    assert max(len(nodes) for nodes in fast.grid.nodes) <= 256


@pytest.mark.usefixtures("no_type_checker")
def test_bad_input_is_refused():
    source = SOURCES["ode"]()
    for interval in ((5.0, 4.0), (-1.0, 4.0), (3.0, np.inf)):
        with pytest.raises(ValueError, match="interval"):
            pj.interpolate(source, interval=interval)
    with pytest.raises(ValueError, match="nodes"):
        pj.interpolate(source, nodes=0)
    with pytest.raises(ValueError, match="tolerance must be positive"):
        pj.interpolate(source, tolerance=0.0)
    rough = pj.ContinuousPuppeteer(SHAPES, omega=4000.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"256 nodes leave a relative error of .* narrow the interval"):
        pj.interpolate(rough)
    with pytest.raises(ValueError, match=r"jax\.vmap"):
        pj.interpolate(source, nodes=2)(jnp.ones(3))
