import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import puppet_jax as pj
from puppet_jax import batch
from puppet_jax.bank import Bank, make_bank
from puppet_jax.batch import logits_from_bank

LAYERS = (pj.LayerSpec(4), pj.LayerSpec(4, pool=2), pj.LayerSpec(6, stride=2), pj.LayerSpec(6), pj.LayerSpec(6))
LEVELS = (2, 256, 1, 16, 4, 3, 256, 64, 2, 1, 8, 256)


@pytest.fixture(scope="module")
def images():
    """12 images of 2×8×8 whose depths cover 1 to 5, in no order."""
    rng = np.random.default_rng(3)
    return np.stack([rng.integers(0, n, (8, 8, 2)) * (255 // max(n - 1, 1)) for n in LEVELS]).astype(np.uint8)


def build(kind, measurement):
    puppet = pj.PlainPuppet(LAYERS, in_channels=2, num_classes=4, norm_groups=2, rngs=nnx.Rngs(0))
    source = {"ode": pj.OdePuppeteer, "continuous": pj.ContinuousPuppeteer, "stored": pj.StoredPuppeteer}[kind]
    return pj.PuppetCNN(source(puppet.kernel_shapes, rngs=nnx.Rngs(1)), puppet, measurement)


def image_by_image(model, images):
    """Each image with kernels generated for itself, layers beyond its depth masked."""
    one = lambda image, h, d: model.puppet(image / 255.0, model.puppeteer(h), d)  # noqa: E731
    return jax.vmap(one)(jnp.asarray(images), *model.measure(images))


def values(model, forward, images):
    """Logits and gradient, in one program."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    of = lambda params: nnx.merge(graphdef, params, rest)  # noqa: E731
    gradient = jax.grad(lambda params: jnp.mean((forward(of(params), images) - jnp.arange(4.0)) ** 2))
    return jax.jit(lambda params: (forward(of(params), images), gradient(params)))(params)


def assert_same(found, wanted, tolerance=1e-4):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert float(jnp.abs(a - b).max()) <= tolerance * float(jnp.abs(b).max()) + 1e-7


@pytest.mark.parametrize("kind", ["ode", "continuous", "stored"])
@pytest.mark.parametrize("bin", [0.25, None])
def test_logits_and_gradients_are_those_of_images_one_by_one(kind, bin, images):
    model = build(kind, pj.Measure(bin=bin))
    assert_same(values(model, lambda m, x: m(x), images), values(model, image_by_image, images))


def test_a_batch_that_meets_more_bins_than_slots_is_the_same(images, monkeypatch):
    model = build("continuous", pj.Measure(bin=0.25))
    h, _ = model.measure(images)
    assert len(np.unique(np.asarray(h))) == 9
    wanted = values(model, image_by_image, images)
    for slots in (2, 8):  # five passes, and two
        monkeypatch.setattr(batch, "SLOTS", slots)
        assert_same(values(model, lambda m, x, slots=slots: m(x), images), wanted)


def test_only_bins_at_hand_are_generated(images, monkeypatch):
    monkeypatch.setattr(batch, "SLOTS", 10)
    sizes = []

    class Counting(pj.StoredPuppeteer):
        def __call__(self, h):
            jax.debug.callback(lambda h: sizes.append(float(h)), h)
            return super().__call__(h)

    puppet = pj.PlainPuppet(LAYERS, in_channels=2, num_classes=4, norm_groups=2, rngs=nnx.Rngs(0))
    source = Counting(puppet.kernel_shapes, rngs=nnx.Rngs(1))
    source.conditioned = True
    model = pj.PuppetCNN(source, puppet)
    jax.block_until_ready(model(images))
    jax.effects_barrier()
    assert len(sizes) == 10
    assert set(np.asarray(model.measure(images)[0]).tolist()) <= set(sizes)


@pytest.fixture(scope="module")
def held(images):
    model = build("continuous", pj.Measure())
    h, d = model.measure(images)
    return model, make_bank(model.puppeteer, jnp.asarray(model.measurement.centres)), model.measurement.index(h), d


def test_layers_beyond_a_chunks_deepest_image_are_not_computed(held, images):
    model, bank, sets, d = held
    shallow = np.flatnonzero(np.asarray(d) <= 3)
    # Kernels that would spoil everything they touch, where only a layer that is skipped would read them.
    poisoned = Bank((*bank.kernels[:3], *(jnp.full_like(k, jnp.nan) for k in bank.kernels[3:])), bank.firsts)
    run = jax.jit(lambda bank, chosen: logits_from_bank(
        model.puppet, bank, jnp.asarray(images)[chosen], sets[chosen], d[chosen], 4
    ))  # fmt: skip
    np.testing.assert_array_equal(run(poisoned, shallow), run(bank, shallow))
    # With deep images among them, theirs are spoilt and the shallow chunks' still are not.
    everything = np.asarray(run(poisoned, np.arange(12)))
    assert np.isnan(everything[np.asarray(d) > 3]).all()
    order = np.argsort(-np.asarray(d), kind="stable")
    assert np.isfinite(everything[order[(np.sum(np.asarray(d) > 3) + 3) // 4 * 4 :]]).all()


def test_rows_that_fill_up_have_no_gradient(held, images):
    model, bank, sets, d = held

    def of_first(kernels, count, size):
        layers = jnp.where(jnp.arange(size) < count, d[:size], 0)
        bank_of = Bank(kernels, bank.firsts)
        logits = logits_from_bank(model.puppet, bank_of, jnp.asarray(images)[:size], sets[:size], layers, 4)
        return jnp.sum(logits[:count] ** 2)

    found, wanted = (jax.jit(jax.grad(of_first), static_argnums=(1, 2))(bank.kernels, 6, size) for size in (12, 6))
    assert_same(found, wanted)


def test_a_bank_tells_what_it_holds():
    kernels = tuple(jnp.zeros((count, 1, 1, 2, 2)) for count in (4, 2))
    bank = Bank(kernels, (3, 5))
    sets = jnp.asarray([2, 3, 4, 5, 6, 7])
    assert [each.tolist() for each in bank.indices(sets)] == [[-1, 0, 1, 2, 3, -1], [-1, -1, -1, 0, 1, -1]]
    assert bank.holds(sets).tolist() == [False, True, True, True, True, False]
    rest = bank.without((1, 0))
    assert rest.firsts == (4, 5)
    assert [len(each) for each in rest.kernels] == [3, 2]
    shared = Bank(kernels, None)
    assert shared.indices(sets)[0].tolist() == [0] * 6
    assert shared.without((1, 1)) is shared
