import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from small import close, images_of, measured, model_of, one_by_one

import puppet_jax as pj
from puppet_jax import _predict as inference

KINDS = {
    "continuous": {},
    "ode": {"puppeteer": "ode", "bin": 1.0},
    "stored": {"puppeteer": "stored"},
    "without bins": {"bin": None},
    "full depth": {"depth": "full"},
    "foreign": {"puppet": "foreign"},
}


@pytest.fixture(scope="module")
def predict():
    return pj.compile_predict(model_of(), chunk=4)


@pytest.mark.parametrize("kind", list(KINDS))
def test_is_the_model_to_rounding(kind):
    model, images = model_of(**KINDS[kind]), images_of()
    prediction = pj.compile_predict(model, chunk=4)(images)
    assert close(prediction.logits, jax.jit(lambda x: one_by_one(model, x))(images))
    h, depth = measured(model, images)
    np.testing.assert_allclose(prediction.complexity, h, rtol=1e-6)
    np.testing.assert_array_equal(prediction.depth, depth)


def test_any_number_in_the_order_given_and_neighbours_do_not_matter(predict, monkeypatch):
    images = np.asarray(images_of())
    everything = predict(images)

    @given(order=st.permutations(range(10)), take=st.sampled_from([1, 3, 10]))
    def check(order, take):
        chosen = np.array(order[:take])
        found = predict(images[chosen])
        assert close(found, jax.tree.map(lambda rows: rows[chosen], everything), 1e-5)

    check()
    one = predict(images[3])
    assert (one.logits.shape, one.depth.shape) == ((3,), ())
    assert close(one.logits, everything.logits[3], 1e-5)
    assert close(jax.jit(predict)(images), everything, 1e-5)
    before = inference._predict._cache_size()
    for size in (9, 12, 16):
        predict(np.resize(images, (size, 8, 8, 2)))
    assert inference._predict._cache_size() == before  # sizes share programs
    monkeypatch.setattr(predict, "_largest_batch", 4)
    assert close(predict(images), everything, 1e-5)  # cut into three


def test_no_generation_is_left_in_it(predict):
    model, images = model_of(), images_of()
    assert " sin " in str(jax.make_jaxpr(lambda x: model(x))(images))
    assert " sin " not in str(jax.make_jaxpr(lambda x: predict(x))(images))


def test_bfloat16_is_asked_for_and_the_model_is_left_alone(predict):
    model, images = model_of(), images_of()
    found = pj.compile_predict(model, dtype=jnp.bfloat16)(images)
    assert found.logits.dtype == jnp.float32
    assert close(found.logits, predict(images).logits, 0.05)
    assert not close(found.logits, predict(images).logits, 1e-6)
    assert model.puppet.dtype == jnp.float32


def test_a_layer_has_kernels_for_the_bins_that_reach_it(predict):
    depths = np.asarray(pj.depth(model_of().measurement.centres, 2))
    assert [len(kernels) for kernels in predict.bank.kernels] == [(depths >= layer).sum() for layer in (1, 2)]
    assert predict.complexities == (0.0, 8.0)
    stored, full = (pj.compile_predict(model_of(**KINDS[kind])).bank for kind in ("stored", "full depth"))
    assert [len(kernels) for kernels in stored.kernels] == [1, 1]
    assert [len(kernels) for kernels in full.kernels] == [32, 32]


def test_complexities_make_a_smaller_bank_and_other_images_are_refused(predict, tmp_path):
    images = images_of()
    expected, h = predict(images), measured(model_of(), images)[0]
    low, high = 1.0, 4.4
    inside = (h > low) & (h < high)
    assert 0 < inside.sum() < 10
    fit, outside = images[np.where(inside, np.arange(10), inside.argmax())], ~inside
    narrow = pj.compile_predict(model_of(), complexities=(low, high))
    assert [len(kernels) for kernels in narrow.bank.kernels] == [14, 11]
    assert narrow.complexities == (1.0, 4.5)  # the bins that these lie in
    assert repr(narrow) == "<Predictor: images of any size, kernels for 1 to 4.5 bits>"
    pj.export(narrow, tmp_path / "file", image_shape=(8, 8, 2), platforms=("cpu",))
    for answer in (narrow, pj.load(tmp_path / "file")):
        assert answer.complexities == narrow.complexities
        assert close(answer(fit).logits[inside], expected.logits[inside], 1e-5)
        with pytest.raises(ValueError, match=rf"image {outside.argmax()} has a complexity near .* for 1 to 4\.5; call"):
            answer(images)
        under_jit = np.asarray(jax.jit(answer)(images).logits)
        assert np.isnan(under_jit[outside]).all()
        assert close(under_jit[inside], expected.logits[inside], 1e-5)
    one = pj.compile_predict(model_of(), complexities=(0.1, 0.1))  # deeper layers keep a set that none of them uses
    assert [len(kernels) for kernels in one.bank.kernels] == [1, 1]
    assert close(one(images[2]).logits, expected.logits[2], 1e-5)


def test_its_arrays_can_be_arguments(predict):
    images = images_of()
    run = jax.jit(lambda arrays, x: predict.with_arrays(arrays)(x).logits)
    assert close(run(predict.arrays, images), predict(images).logits, 1e-5)
    spoilt = jax.tree.map(lambda a: a * jnp.nan if jnp.result_type(a) == jnp.float32 else a, predict.arrays)
    assert np.isnan(run(spoilt, images)).all()


@pytest.mark.usefixtures("no_type_checker")
def test_bad_input_is_refused(predict):
    for images, words in (
        (np.zeros((1, 2, 8, 8, 2), np.uint8), r"got shape \(1, 2, 8, 8, 2\); .* jax\.vmap"),
        (np.full((2, 8, 8, 2), np.nan, np.float32), "NaN"),
        (np.zeros((2, 8, 8, 3), np.uint8), "in_channels=3"),
        (np.zeros((2, 3, 8, 2), np.uint8), "smaller than"),
    ):
        for answer in (predict, model_of()):
            with pytest.raises(ValueError, match=words):
                answer(images)
    for options, words in (
        ({"chunk": 0}, "chunk must be at least 1"),
        ({"complexities": (5.0, 4.0)}, "least <= greatest"),
        ({"complexities": (-1.0, 4.0)}, "0 <= least"),
        ({"complexities": (1.0, float("nan"))}, "least <= greatest"),
    ):
        with pytest.raises(ValueError, match=words):
            pj.compile_predict(model_of(), **options)
    with pytest.raises(ValueError, match="measures without bins; leave them out"):
        pj.compile_predict(model_of(bin=None), complexities=(1.0, 2.0))
    with pytest.raises(TypeError, match="PuppetCNN"):
        pj.compile_predict(predict)
