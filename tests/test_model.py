import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given

import puppet_jax as pj

PUPPETEERS = ["continuous", "ode", "printed", "stored"]


@pytest.fixture(scope="module")
def models():
    return {name: pj.create("puppet_xs", puppeteer=name, in_channels=1, rngs=nnx.Rngs(1)) for name in PUPPETEERS}


@pytest.fixture(scope="module")
def images():
    """Grey 8×8 images of very different complexity, a constant one among them."""
    rng = np.random.default_rng(0)
    levels = [1, 2, 4, 16, 256]
    return np.stack([rng.integers(0, n, (8, 8, 1)) * (255 // max(n - 1, 1)) for n in levels]).astype(np.uint8)


@pytest.mark.parametrize("name", PUPPETEERS)
def test_batch_is_a_loop_over_images(models, images, name):
    model = models[name]
    batch = model(images)
    assert batch.shape == (5, 10)
    assert batch.dtype == jnp.float32
    assert len(set(np.asarray(model.measure(images)[1]))) > 1  # several depths
    for image, logits in zip(images, batch, strict=True):
        np.testing.assert_allclose(model(image), logits, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("name", PUPPETEERS)
def test_is_its_parts_wired_together(models, images, name):
    model = models[name]
    for image in images:
        h = pj.complexity(image)
        d = int(pj.depth(h, model.max_depth))
        kernels = model.puppeteer(h)[:d]
        expected = model.puppet(jnp.asarray(image, jnp.float32) / 255, kernels, d)
        np.testing.assert_allclose(model(image), expected, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("name", ["continuous", "ode"])
def test_permuting_a_batch_permutes_its_logits_and_neighbours_do_not_matter(models, images, name):
    everything = models[name](images)

    @given(order=st.permutations(range(5)), take=st.sampled_from([1, 3, 5]))
    def check(order, take):
        chosen = np.array(order[:take])
        np.testing.assert_allclose(models[name](images[chosen]), everything[chosen], rtol=2e-3, atol=2e-4)

    check()


@pytest.mark.parametrize("name", PUPPETEERS)
def test_works_under_transformations(models, images, name):
    model = models[name]
    expected = model(images)
    np.testing.assert_allclose(jax.jit(lambda x: model(x))(images), expected, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(jax.vmap(model)(images), expected, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(nnx.jit(lambda m, x: m(x))(model, images), expected, rtol=2e-3, atol=2e-4)
    gradient = jax.grad(lambda x: model(x).sum())(jnp.asarray(images / 255, jnp.float32))
    assert gradient.shape == images.shape
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", PUPPETEERS)
def test_every_parameter_is_reached_by_the_gradient(models, images, name):
    # The last layers of the stored puppeteer belong to depths that no image here has.
    gradient = nnx.grad(lambda m: (m(images) ** 2).sum())(models[name])
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
        deep = "kernels" in str(path) or "norm" in str(path)
        assert deep or float(jnp.abs(leaf).max()) > 0, path


def test_loss_gradient_against_finite_differences(models, images):
    graphdef, state = nnx.split(models["continuous"])
    direction = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size, dtype=jnp.float32)).reshape(leaf.shape), state)

    def along(step):
        moved = jax.tree.map(lambda p, d: p + step * d, state, direction)
        return float(loss(moved))

    loss = jax.jit(lambda state: (nnx.merge(graphdef, state)(images[1:]) ** 2).sum())
    gradient = jax.grad(loss)(state)
    slope = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))
    assert float(slope) == pytest.approx((along(1e-4) - along(-1e-4)) / 2e-4, rel=0.05)


def test_float_and_uint8_images_agree(models, images):
    model = models["continuous"]
    np.testing.assert_allclose(model(images / np.float32(255)), model(images), rtol=2e-3, atol=2e-4)


def test_same_seed_same_numbers(images):
    a, b, c = (pj.create("puppet_xs", in_channels=1, rngs=nnx.Rngs(seed))(images) for seed in (7, 7, 8))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize("preset", sorted(pj.PRESETS))
@pytest.mark.parametrize("name", PUPPETEERS)
def test_every_preset_can_be_built_and_counted(preset, name):
    model = jax.eval_shape(lambda: pj.create(preset, puppeteer=name, num_classes=7, rngs=nnx.Rngs(0)))
    shape = jax.eval_shape(lambda m, x: m(x), model, jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.uint8))
    assert shape.shape == (2, 7)
    counted = pj.summary(model)
    assert counted.total == sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert (
        counted.static_twin
        == pj.summary(
            jax.eval_shape(lambda: pj.create(preset, puppeteer="stored", num_classes=7, rngs=nnx.Rngs(0)))
        ).total
    )
    assert (counted.compression > 1) == (name != "stored")


def test_summary_by_hand():
    counted = pj.summary(pj.create("puppet_xs", in_channels=1, rngs=nnx.Rngs(0)))
    # SIREN 3→32→32 and 32→8 without bias, 8 matrices of 32×32; six layers' scale and shift; 32→10 head.
    assert counted.generator == (3 * 32 + 32) + (32 * 32 + 32) + 32 * 8 + 8 * 32 * 32
    assert counted.normalisation == 6 * 2 * 32
    assert counted.head == 32 * 10 + 10
    assert counted.static_kernels == 9 * 32 + 5 * 9 * 32 * 32
    assert counted.compression == pytest.approx(47082 / 10346)
    for number in ("9,632", "46,368", "47,082", "4.8x", "4.6x"):
        assert number in str(counted)
    with pytest.raises(TypeError, match="PuppetCNN"):
        pj.summary(counted)


@pytest.mark.usefixtures("no_type_checker")
@pytest.mark.parametrize(
    ("images", "error", "words"),
    [
        (np.zeros((8, 8), np.uint8), ValueError, "height, width, channels"),
        (np.zeros((2, 2, 8, 8, 1), np.uint8), ValueError, "jax.vmap"),
        (np.zeros((0, 8, 8, 1), np.uint8), ValueError, "empty"),
        (np.full((2, 8, 8, 1), np.nan, np.float32), ValueError, "NaN"),
        (np.full((2, 8, 8, 1), 2.0, np.float32), ValueError, "divide by 255"),
        (np.zeros((2, 8, 8, 1), np.int32), TypeError, "uint8"),
        (np.zeros((2, 8, 8, 3), np.uint8), ValueError, "in_channels=3"),
        (np.zeros((2, 1, 8, 1), np.uint8), ValueError, "smaller than"),
    ],
)
def test_bad_images_are_refused(models, images, error, words):
    with pytest.raises(error, match=words):
        models["continuous"](images)


@pytest.mark.usefixtures("no_type_checker")
def test_bad_arguments_of_create_are_refused():
    with pytest.raises(ValueError, match="unknown preset 'puppet_xxl'; there are puppet_m, puppet_resnet_s, puppet_s"):
        pj.create("puppet_xxl", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="unknown puppeteer 'static'; there are continuous"):
        pj.create("puppet_s", puppeteer="static", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="unknown solver"):
        pj.create("puppet_s", puppeteer="ode", puppeteer_options={"solver": "RK9"}, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="solver"):
        pj.create("puppet_s", puppeteer="stored", puppeteer_options={"solver": "Euler"}, rngs=nnx.Rngs(0))
    a, b = (pj.create("puppet_xs", in_channels=c, rngs=nnx.Rngs(0)) for c in (1, 3))
    with pytest.raises(ValueError, match=r"puppet\.kernel_shapes"):
        pj.PuppetCNN(a.puppeteer, b.puppet)


@pytest.mark.parametrize("options", [{"base": "e"}, {"spectrum": "magnitude"}, {"pixel_weight": 1.0}])
def test_measurement_is_the_complexity_it_names(images, options):
    model = pj.create("puppet_xs", in_channels=1, measurement=pj.Measure(bin=None, **options), rngs=nnx.Rngs(1))
    h, d = model.measure(images)
    # An 8×8 spectrum has few values: one that rounds across a level is worth a thirtieth of a bit.
    np.testing.assert_allclose(h, pj.complexity(images, **options), atol=0.05)
    np.testing.assert_array_equal(d, pj.depth(h, model.max_depth))
    usual = pj.create("puppet_xs", in_channels=1, rngs=nnx.Rngs(1))
    assert np.abs(usual(images) - model(images)).max() > 1e-3
    prediction = pj.compile_predict(model)(images)
    np.testing.assert_allclose(prediction.complexity, h, atol=0.05)
    np.testing.assert_allclose(prediction.logits, model(images), rtol=1e-3, atol=1e-3)


def test_full_depth_is_all_layers_for_every_image(images):
    model = pj.create("puppet_xs", in_channels=1, measurement=pj.Measure(depth="full"), rngs=nnx.Rngs(1))
    h, d = model.measure(images)
    assert (d == model.max_depth).all()
    for image, complexity, logits in zip(images, h, model(images), strict=True):
        expected = model.puppet(jnp.asarray(image, jnp.float32) / 255, model.puppeteer(complexity), model.max_depth)
        np.testing.assert_allclose(logits, expected, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(pj.compile_predict(model)(images).logits, model(images), rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("no_type_checker")
@pytest.mark.parametrize("options", [{"base": 10}, {"spectrum": "power"}, {"pixel_weight": 2.0}, {"depth": "half"}])
def test_a_bad_measurement_is_refused(options):
    with pytest.raises(ValueError, match=f"Measure: {next(iter(options))} must"):
        pj.Measure(**options)


def test_width_of_a_preset():
    model = pj.create("puppet_s", width=16, rngs=nnx.Rngs(0))
    assert model.puppet.kernel_shapes == ((16, 3, 3, 3), *[(16, 16, 3, 3)] * 6)
    assert [layer.pool for layer in model.puppet.layers] == [layer.pool for layer in pj.PRESETS["puppet_s"].layers]
