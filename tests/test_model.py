import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import close, images_of, model_of, one_by_one

import puppet_jax as pj
from puppet_jax._cost import cost

PUPPETEERS = ["continuous", "ode", "printed", "stored"]


def test_is_its_parts_wired_together_under_every_transformation():
    model, images = model_of(), images_of()
    expected = jax.jit(lambda x: one_by_one(model, x))(images)
    batch = model(images)
    assert (batch.shape, batch.dtype) == ((10, 3), jnp.float32)
    assert close(batch, expected)
    assert close(jnp.stack([model(image) for image in images]), expected)
    assert close(jax.jit(lambda x: model(x))(images), expected)
    assert close(jax.vmap(model)(images), expected)
    assert close(nnx.jit(lambda m, x: m(x))(model, images), expected)
    assert close(model(images / jnp.float32(255)), expected)
    order = np.random.default_rng(0).permutation(10)
    assert close(model(images[order]), expected[order])


@pytest.mark.parametrize("puppeteer", ["continuous", "ode"])
def test_loss_gradient_against_finite_differences(puppeteer):
    graphdef, state = nnx.split(model_of("plain", puppeteer))
    images = images_of()
    direction = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size, dtype=jnp.float32)).reshape(leaf.shape), state)
    loss = jax.jit(jax.value_and_grad(lambda state: (jnp.tanh(nnx.merge(graphdef, state)(images)) ** 2).sum()))
    gradient = loss(state)[1]
    slope = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))
    ends = [loss(jax.tree.map(lambda p, d, step=step: p + step * d, state, direction))[0] for step in (1e-4, -1e-4)]
    assert float(slope) == pytest.approx(float(ends[0] - ends[1]) / 2e-4, rel=0.03)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert float(jnp.abs(leaf).max()) > 0, path


def test_same_seed_same_numbers():
    made = (pj.create("puppet_xs", in_channels=1, width=8, rngs=nnx.Rngs(seed)) for seed in (7, 7, 8))
    a, b, c = (np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(nnx.state(each))]) for each in made)
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


@functools.cache
def shapes_of(preset, puppeteer):
    return jax.eval_shape(lambda: pj.create(preset, puppeteer=puppeteer, num_classes=7, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("preset", sorted(pj.PRESETS))
@pytest.mark.parametrize("name", PUPPETEERS)
def test_every_preset_can_be_built_and_counted(preset, name):
    model = shapes_of(preset, name)
    if name == "stored":
        images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.uint8)
        assert jax.eval_shape(lambda m, x: m(x), model, images).shape == (2, 7)
    kernels = jax.eval_shape(lambda m: m.puppeteer(6.0), model)
    assert tuple(kernel.shape for kernel in kernels) == model.puppet.kernel_shapes
    counted = pj.summary(model)
    assert counted.total == sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert counted.static_twin == pj.summary(shapes_of(preset, "stored")).total
    assert (counted.compression > 1) == (name != "stored")


def test_a_preset_says_whether_depth_follows_complexity_unless_a_measurement_does():
    shallow, deep = (nnx.eval_shape(lambda n=n: pj.create(n, rngs=nnx.Rngs(0))) for n in ("puppet_s", "puppet_m"))
    assert shallow.measurement == pj.Measure()
    assert deep.measurement == pj.Measure(depth="full")
    np.testing.assert_array_equal(deep.measurement.depth_of(np.array([4.0, 7.0]), deep.puppet.depths), [10, 10])
    own = nnx.eval_shape(lambda: pj.create("puppet_m", measurement=pj.Measure(depth=3), rngs=nnx.Rngs(0)))
    np.testing.assert_array_equal(own.measurement.depth_of(np.array([4.2, 7.2]), own.puppet.depths), [3, 3])


def test_summary_by_hand():
    counted = pj.summary(nnx.eval_shape(lambda: pj.create("puppet_xs", in_channels=1, rngs=nnx.Rngs(0))))
    # Sines 3→32 and 32→8 without bias, 8 matrices of 32×32; six layers' scale and shift; 32→10 head.
    assert counted.generator == (3 * 32 + 32) + 32 * 8 + 8 * 32 * 32
    assert counted.normalisation == 6 * 2 * 32
    assert counted.head == 32 * 10 + 10
    assert counted.static_kernels == 9 * 32 + 5 * 9 * 32 * 32
    assert counted.compression == pytest.approx(47082 / 9290)
    for number in ("8,576", "46,368", "47,082", "5.4x", "5.1x"):
        assert number in str(counted)
    with pytest.raises(TypeError, match="PuppetCNN"):
        pj.summary(counted)


def test_multiplications_and_maps_by_hand():
    foreign = model_of("foreign", "stored")
    assert pj.summary(foreign).costs == ()
    # Results times what each is a sum of: maps of 4×4×4, one in two groups, of 2×2×4, and three classes.
    assert cost(foreign, (8, 8, 2)) == (64 * 18 + 64 * 18 + 2 * 16 * 36 + 12, 64 * 2 + 16 * 4)
    own = pj.PuppetCNN(pj.StoredPuppeteer(Own.kernel_shapes, standardise=False, rngs=nnx.Rngs(0)), Own())
    assert cost(own, (4, 4, 8)) == (16 * 8 * 2 + 16 * 2 * 6 + 3 * 14 * 14, 16 * (8 + 6))


class Own(pj.Puppet):
    """A wide map that is needed again after a narrow one; and a loop."""

    kernel_shapes, levels, max_depth, num_classes = ((1, 1, 1, 1),), (1,), 1, 14

    def batch(self, images, indices, bank, depths, samples, lowering=None):
        x = images.reshape(16, 8)
        both = jnp.concatenate([x, x @ jnp.ones((8, 2)) @ jnp.ones((2, 6))], axis=1).mean(0)
        return jax.lax.scan(lambda y, _: (jnp.ones((14, 14)) @ y, None), both, length=3)[0][None]


@pytest.mark.usefixtures("no_type_checker")
def test_bad_arguments_of_create_are_refused():
    with pytest.raises(ValueError, match="unknown preset 'puppet_xxl'; there are puppet_e, puppet_m, puppet_resnet_s"):
        pj.create("puppet_xxl", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="unknown puppeteer 'static'; there are continuous"):
        pj.create("puppet_s", puppeteer="static", rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="solver"):
        pj.create("puppet_s", puppeteer="stored", puppeteer_options={"solver": None}, rngs=nnx.Rngs(0))
    a, b = (nnx.eval_shape(lambda c=c: pj.create("puppet_xs", in_channels=c, rngs=nnx.Rngs(0))) for c in (1, 3))
    with pytest.raises(ValueError, match=r"puppet\.kernel_shapes"):
        pj.PuppetCNN(a.puppeteer, b.puppet)
    with pytest.raises(TypeError, match=r"got SimpleNamespace; derive its class from puppet_jax\.Puppeteer"):
        pj.create("puppet_xs", puppeteer=lambda shapes, rngs: types.SimpleNamespace(), rngs=nnx.Rngs(0))


def test_a_puppeteer_of_one_s_own():
    name = "puppet_jax.puppeteers._base:StoredPuppeteer"
    for puppeteer in (name, pj.StoredPuppeteer):
        model = pj.create(
            "puppet_xs", width=8, puppeteer=puppeteer, puppeteer_options={"standardise": False}, rngs=nnx.Rngs(0)
        )
        assert isinstance(model.puppeteer, pj.StoredPuppeteer)
        assert not model.puppeteer.standardise
    with pytest.raises(ValueError, match="nowhere:make: cannot be imported here"):
        pj.create("puppet_xs", puppeteer="nowhere:make", rngs=nnx.Rngs(0))


class Waves(pj.Puppeteer):
    """The least that a user writes."""

    def __call__(self, h):
        return tuple(jnp.sin(h * jnp.arange(np.prod(shape))).reshape(shape) for shape in self.kernel_shapes)


def test_a_puppeteer_s_defaults_are_enough_for_a_model():
    puppet = model_of().puppet
    model, images = pj.PuppetCNN(Waves(puppet.kernel_shapes), puppet), images_of()
    assert close(model(images), one_by_one(model, images))
    assert close(pj.compile_predict(model)(images).logits, model(images))
    assert pj.summary(model).sizes == ()
    with pytest.raises(NotImplementedError, match=r"must define __call__"):
        pj.Puppeteer(puppet.kernel_shapes)(1.0)


def test_width_of_a_preset():
    model = nnx.eval_shape(lambda: pj.create("puppet_s", width=16, rngs=nnx.Rngs(0)))
    assert model.puppet.kernel_shapes == ((16, 3, 3, 3), *[(16, 16, 3, 3)] * 6)
    assert [layer.pool for layer in model.puppet.layers] == [layer.pool for layer in pj.PRESETS["puppet_s"].layers]
