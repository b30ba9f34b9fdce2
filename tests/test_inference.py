import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given

import puppet_jax as pj
from puppet_jax import inference

LAYERS = (pj.LayerSpec(8), pj.LayerSpec(8, pool=2), pj.LayerSpec(12, stride=2), pj.LayerSpec(12), pj.LayerSpec(12))


def build(name, dtype=jnp.float32, measurement=None):
    puppet = pj.PlainPuppet(LAYERS, in_channels=2, num_classes=4, norm_groups=4, dtype=dtype, rngs=nnx.Rngs(0))
    source = {
        "ode": pj.OdePuppeteer,
        "continuous": pj.ContinuousPuppeteer,
        "stored": pj.StoredPuppeteer,
    }[name]
    return pj.PuppetCNN(source(puppet.kernel_shapes, rngs=nnx.Rngs(1)), puppet, measurement)


@pytest.fixture(scope="module")
def images():
    """17 images of 2×8×8 whose depths cover 1 to 5, in no order."""
    rng = np.random.default_rng(3)
    levels = [2, 256, 1, 16, 4, 3, 256, 64, 2, 1, 8, 256, 4, 32, 2, 16, 256]
    return np.stack([rng.integers(0, n, (8, 8, 2)) * (255 // max(n - 1, 1)) for n in levels]).astype(np.uint8)


@pytest.fixture(scope="module", params=["ode", "continuous", "stored"])
def pair(request):
    model = build(request.param)
    return model, pj.compile_predict(model, chunk=4)


def close(found, expected, tolerance=1e-4):
    return float(jnp.abs(found - expected).max()) <= tolerance * float(jnp.abs(expected).max())


def test_is_the_exact_model(pair, images):
    model, predict = pair
    prediction = predict(images)
    assert close(prediction.logits, model(images))
    h, d = model.measure(images)
    np.testing.assert_allclose(prediction.complexity, h, rtol=1e-6)
    np.testing.assert_array_equal(prediction.depth, d)
    assert set(np.asarray(d)) == {1, 2, 3, 4, 5}


def test_any_size_in_the_order_given_and_neighbours_do_not_matter(pair, images):
    _, predict = pair
    everything = predict(images)

    @given(order=st.permutations(range(17)), take=st.sampled_from([1, 2, 3, 16, 17]))
    def check(order, take):
        chosen = np.array(order[:take])
        found = predict(images[chosen])
        assert found.logits.shape == (take, 4)
        assert close(found.logits, everything.logits[chosen], 1e-5)
        np.testing.assert_array_equal(found.depth, everything.depth[chosen])

    check()


def test_one_image_and_under_jit(pair, images):
    _, predict = pair
    expected = predict(images)
    one = predict(images[3])
    assert one.logits.shape == (4,)
    assert one.depth.shape == ()
    assert close(one.logits, expected.logits[3], 1e-5)
    assert close(jax.jit(lambda x: predict(x).logits)(images), expected.logits, 1e-5)


def test_sizes_share_programs(pair, images):
    _, predict = pair
    predict(images[:16])
    before = inference._predict._cache_size()
    for size in range(9, 17):
        predict(images[:size])
    assert inference._predict._cache_size() == before


def test_batches_beyond_the_largest_are_cut(pair, images, monkeypatch):
    _, predict = pair
    expected = predict(images)
    monkeypatch.setattr(inference, "_LARGEST_BATCH", 8)
    found = predict(images)
    assert close(found.logits, expected.logits, 1e-5)
    np.testing.assert_array_equal(found.depth, expected.depth)


@pytest.mark.parametrize("chunk", [1, 3, 5, 64])
def test_any_chunk_gives_the_same(images, chunk):
    model = build("continuous")
    assert close(pj.compile_predict(model, chunk=chunk)(images).logits, model(images))


def test_work_is_proportional_to_depth(images):
    """Counted, not timed: with one image a chunk, the layers that run are the sum of the depths."""
    model = build("stored")
    runs = []
    layer = pj.PlainPuppet.layer

    def counting(self, x, kernel, index, lowering):
        jax.debug.callback(lambda: runs.append(index))
        return layer(self, x, kernel, index, lowering)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pj.PlainPuppet, "layer", counting)
        inference._predict.clear_cache()
        prediction = pj.compile_predict(model, chunk=1)(images)
        jax.effects_barrier()
    inference._predict.clear_cache()
    assert len(runs) == int(prediction.depth.sum())
    assert len(runs) < 17 * model.max_depth


def test_no_generation_is_left_in_it(images):
    model = build("ode")
    predict = pj.compile_predict(model)
    text = str(jax.make_jaxpr(lambda x: predict(x))(images))
    exact = str(jax.make_jaxpr(lambda x: model(x))(images))
    field = "dot_general"  # G's pointwise product, in the exact path's integration loop
    assert "while" in exact
    assert field in exact
    # tanh appears in step_size only: G's own is gone.
    assert text.count(" tanh ") < exact.count(" tanh ")
    assert len(jax.tree.leaves(nnx.state(model.puppeteer))) > 0


def test_bfloat16(images):
    model = build("continuous")
    expected = model(images)
    found = pj.compile_predict(model, dtype=jnp.bfloat16)(images)
    assert found.logits.dtype == jnp.float32
    assert close(found.logits, expected, 0.05)
    assert not close(found.logits, expected, 1e-6)
    assert model.puppet.dtype == jnp.float32  # the model itself is left alone


def test_a_bank_holds_each_layers_kernels_only_where_an_image_uses_them(images):
    model = build("continuous")
    predict = pj.compile_predict(model)
    depths = np.asarray(pj.depth(model.measurement.centres, model.max_depth))
    assert [len(k) for k in predict.bank.kernels] == [int((depths >= layer).sum()) for layer in range(1, 6)]
    assert predict.complexities == (0.0, 8.0)
    full = build("continuous", measurement=pj.Measure(depth="full"))
    predict = pj.compile_predict(full)
    assert {len(k) for k in predict.bank.kernels} == {32}
    assert close(predict(images).logits, full(images))
    assert {len(k) for k in pj.compile_predict(build("stored")).bank.kernels} == {1}


def test_complexities_that_the_bank_lacks_are_refused(images):
    model = build("continuous")
    predict = pj.compile_predict(model, complexities=(3.0, 5.1))
    assert predict.complexities == (3.0, 5.25)
    h, _ = model.measure(images)
    inside = np.asarray((h > 3.0) & (h < 5.25))
    assert 0 < inside.sum() < len(images)
    assert close(predict(images[inside]).logits, model(images)[inside])
    with pytest.raises(ValueError, match=r"image 0 has a complexity near .*, the bank was made for 3 to 5.25"):
        predict(images)
    logits = np.asarray(jax.jit(lambda x: predict(x).logits)(images))
    np.testing.assert_array_equal(np.isnan(logits).all(axis=1), ~inside)
    for wrong in ((5.0, 3.0), (-1.0, 3.0)):
        with pytest.raises(ValueError, match="complexities must be"):
            pj.compile_predict(model, complexities=wrong)


def test_continuous_complexity_is_served_without_a_bank(images):
    model = build("ode", measurement=pj.Measure(bin=None))
    predict = pj.compile_predict(model)
    assert predict.bank is None
    found = predict(images)
    assert close(found.logits, model(images))
    np.testing.assert_array_equal(found.complexity, pj.complexity(images))
    with pytest.raises(ValueError, match="measures without bins"):
        pj.compile_predict(model, complexities=(3.0, 5.0))
    with pytest.raises(ValueError, match="measures complexity without bins"):
        pj.export(predict, "unused", image_shape=(8, 8, 2))


def test_its_arrays_can_be_arguments(images):
    predict = pj.compile_predict(build("continuous"))
    run = jax.jit(lambda arrays, x: predict.with_arrays(arrays)(x).logits)
    assert close(run(predict.arrays, images), predict(images).logits, 1e-5)
    spoilt = jax.tree.map(lambda a: a * jnp.nan if jnp.result_type(a) == jnp.float32 else a, predict.arrays)
    assert np.isnan(run(spoilt, images)).all()


@pytest.mark.usefixtures("no_type_checker")
def test_bad_input_is_refused(images):
    predict = pj.compile_predict(build("stored"))
    bad = [
        (np.zeros((8, 8), np.uint8), ValueError, "height, width, channels"),
        (np.zeros((0, 8, 8, 2), np.uint8), ValueError, "empty"),
        (np.zeros((1, 2, 8, 8, 2), np.uint8), ValueError, "got shape"),
        (np.full((2, 8, 8, 2), np.nan, np.float32), ValueError, "NaN"),
        (np.zeros((2, 8, 8, 3), np.uint8), ValueError, "in_channels=3"),
        (np.zeros((2, 3, 8, 2), np.uint8), ValueError, "smaller than"),
        (np.zeros((2, 8, 8, 2), np.int32), TypeError, "uint8"),
    ]
    for value, error, words in bad:
        with pytest.raises(error, match=words):
            predict(value)
    with pytest.raises(ValueError, match="chunk"):
        pj.compile_predict(build("stored"), chunk=0)
    with pytest.raises(TypeError, match="PuppetCNN"):
        pj.compile_predict(predict)
