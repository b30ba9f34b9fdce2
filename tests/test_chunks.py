import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import puppet_jax as pj
from puppet_jax.batch import convolution_tables, logits_in_chunks

LAYERS = (pj.LayerSpec(8), pj.LayerSpec(8, pool=2), pj.LayerSpec(12, stride=2), pj.LayerSpec(12), pj.LayerSpec(12))


@pytest.fixture(scope="module")
def model():
    puppet = pj.PlainPuppet(LAYERS, in_channels=2, num_classes=4, norm_groups=4, rngs=nnx.Rngs(0))
    return pj.PuppetCNN(pj.OdePuppeteer(puppet.kernel_shapes, rngs=nnx.Rngs(1)), puppet)


@pytest.fixture(scope="module")
def images():
    """17 images of 2×8×8 whose depths cover 1 to 5, in no order."""
    rng = np.random.default_rng(3)
    levels = [2, 256, 1, 16, 4, 3, 256, 64, 2, 1, 8, 256, 4, 32, 2, 16, 256]
    return np.stack([rng.integers(0, n, (8, 8, 2)) * (255 // max(n - 1, 1)) for n in levels]).astype(np.uint8)


def test_gradients_are_those_of_the_exact_path_image_by_image(model, images):
    grid = pj.interpolate(model.puppeteer).grid
    h, d = model.measure(images)

    def exact(model):
        def one(image, h, d):
            return model.puppet(image / 255.0, model.puppeteer(h), d)

        return jax.vmap(one)(jnp.asarray(images), h, d)

    def chunked(model, chunk):
        tables = convolution_tables(pj.puppeteers.InterpolatedPuppeteer(model.puppeteer, grid).tables())
        return logits_in_chunks(model.puppet, grid, tables, jnp.asarray(images), h, d, chunk)

    def gradient(forward):
        loss = lambda m: jnp.mean((forward(m) - jnp.arange(4.0)) ** 2)  # noqa: E731
        return jax.tree.leaves(nnx.jit(nnx.grad(loss))(model))

    expected = gradient(exact)
    for chunk in (4, 17):  # one that leaves a rest, and all at once
        for found, wanted in zip(gradient(lambda m, chunk=chunk: chunked(m, chunk)), expected, strict=True):
            assert float(jnp.abs(found - wanted).max()) <= 1e-4 * float(jnp.abs(wanted).max()) + 1e-7


def test_layers_beyond_a_chunks_deepest_image_are_not_computed(model, images):
    fast = pj.interpolate(model.puppeteer, nodes=4)
    h, d = model.measure(images)
    shallow = np.flatnonzero(np.asarray(d) <= 3)
    # Kernels that would spoil everything they touch, where only a layer that is skipped would read them.
    tables = convolution_tables(fast.tables())
    poisoned = tables[:3] + tuple(jnp.full_like(table, jnp.nan) for table in tables[3:])
    run = jax.jit(lambda tables, chosen: logits_in_chunks(
        model.puppet, fast.grid, tables, jnp.asarray(images)[chosen], h[chosen], d[chosen], 4
    ))  # fmt: skip
    np.testing.assert_array_equal(run(poisoned, shallow), run(tables, shallow))
    # With deep images among them, theirs are spoilt and the shallow chunks' still are not.
    everything = np.asarray(run(poisoned, np.arange(17)))
    assert np.isnan(everything[np.asarray(d) > 3]).all()
    order = np.argsort(-np.asarray(d), kind="stable")
    untouched = order[(np.sum(np.asarray(d) > 3) + 3) // 4 * 4 :]
    assert np.isfinite(everything[untouched]).all()


def test_rows_that_fill_up_have_no_gradient(model, images):
    fast = pj.interpolate(model.puppeteer, nodes=4)
    h, d = model.measure(images)
    tables = convolution_tables(fast.tables())

    def loss(tables, count):
        filled = jnp.where(jnp.arange(17) < count, d, 0)
        logits = logits_in_chunks(model.puppet, fast.grid, tables, jnp.asarray(images), h, filled, 4)
        return jnp.sum(jnp.where(jnp.arange(17)[:, None] < count, logits, 0.0) ** 2)

    def cut(tables, count):
        return jnp.sum(
            logits_in_chunks(model.puppet, fast.grid, tables, jnp.asarray(images)[:count], h[:count], d[:count], 4) ** 2
        )

    for found, wanted in zip(jax.grad(loss)(tables, 6), jax.grad(cut)(tables, 6), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
