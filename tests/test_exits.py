"""Leaving early: heads after some layers, a depth for all, and confidence."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import close, drawn, images_of, model_of
from test_plain import numpy_puppet

import puppet_jax as pj
from puppet_jax.puppets import _plain

LAYERS = (pj.LayerSpec(4, pool=2), *[pj.LayerSpec(4)] * 4)


@functools.cache
def with_exits(exits=(1, 3), **measurement):
    def make():
        puppet = pj.PlainPuppet(LAYERS, in_channels=2, num_classes=3, norm_groups=2, exits=exits, rngs=nnx.Rngs(0))
        return pj.PuppetCNN(pj.StoredPuppeteer(puppet.kernel_shapes, rngs=nnx.Rngs(0)), puppet)

    model = drawn(make)
    return pj.PuppetCNN(model.puppeteer, model.puppet, pj.Measure(**{"depth": "full", **measurement}))


def expected_at_exits(model, images):
    """(N, E, classes), by the definition in NumPy: the net cut off, and the head of that depth."""
    puppet, kernels = model.puppet, model.puppeteer(4.0)
    found = []
    for place, depth in enumerate(puppet.depths):
        cut = nnx.clone(puppet)
        if depth < puppet.max_depth:
            cut.head, cut.head_bias = (nnx.Param(each[place]) for each in (puppet.early_heads, puppet.early_biases))
        wide = lambda image, cut=cut, depth=depth: numpy_puppet(cut, image, kernels, depth, width=4)  # noqa: E731
        found.append([wide(np.asarray(image) / 255) for image in images])
    return np.swapaxes(np.array(found), 0, 1)


def test_every_exit_is_the_net_cut_off_there_with_its_own_head():
    model, images = with_exits(), images_of()
    assert model.puppet.depths == (1, 3, 5)
    expected = expected_at_exits(model, images)
    assert close(model.at_exits(images), expected)
    assert close(model(images), expected[:, -1])
    for place, depth in enumerate((1, 3, 5)):
        prediction = pj.compile_predict(model, depth=depth)(images)
        assert close(prediction.logits, expected[:, place])
        assert set(prediction.depth.tolist()) == {depth}


@pytest.mark.parametrize("lowering", ["native", "gathered"])
def test_an_image_leaves_where_it_is_sure(monkeypatch, lowering):
    model, images = with_exits(), jnp.concatenate([images_of(), images_of(levels=(7, 11, 13))])
    expected = expected_at_exits(model, images)
    sure = np.exp(expected) / np.exp(expected).sum(-1, keepdims=True)
    confidence = float(np.sort(sure[:, 0].max(-1))[5:7].mean())
    left = np.array([next((e for e in (0, 1) if each[e].max() >= confidence), 2) for each in sure])
    monkeypatch.setattr(_plain, "default_lowering", lambda platform: lowering)
    jax.clear_caches()
    prediction = pj.compile_predict(model, confidence=confidence, chunk=8)(images)
    jax.clear_caches()
    assert len(set(left)) > 1
    np.testing.assert_array_equal(prediction.depth, np.array([1, 3, 5])[left])
    assert close(prediction.logits, expected[np.arange(len(left)), left])


def test_depth_by_complexity_is_that_of_the_next_exit():
    model, images = with_exits(depth="complexity"), images_of()
    asked = pj.depth(model.measure(images)[0])
    expected = np.array([next((exit_ for exit_ in (1, 3, 5) if exit_ >= d), 5) for d in asked.tolist()])
    assert len(set(expected)) > 1
    prediction = pj.compile_predict(model)(images)
    np.testing.assert_array_equal(prediction.depth, expected)
    places = np.searchsorted((1, 3, 5), expected)
    assert close(prediction.logits, expected_at_exits(model, images)[np.arange(len(images)), places])


def test_exports_leave_as_the_predictor_does_and_a_depth_needs_fewer_bytes(tmp_path):
    images, sizes = images_of(), []
    for name, options in (("sure", {"confidence": 0.5}), ("cut", {"depth": 1})):
        predict = pj.compile_predict(with_exits(), **options)
        pj.export(predict, tmp_path / name, image_shape=(8, 8, 2), platforms=["cpu"])
        assert close(pj.load(tmp_path / name)(images), predict(images))
        sizes.append((tmp_path / name).stat().st_size)
    assert sizes[1] < 0.75 * sizes[0]


def test_somebody_elses_net_takes_a_pass_for_each_depth():
    model, images = model_of("foreign"), images_of()
    h, _ = model.measure(images)
    kernels = jax.vmap(model.puppeteer)(h)
    run = lambda d: jax.vmap(lambda image, *own: model.puppet(image, own, d))(images / 255, *kernels)  # noqa: E731
    expected = jnp.stack([run(depth) for depth in (1, 2)], 1)
    assert close(model.at_exits(images), expected)
    assert close(pj.compile_predict(model, depth=1)(images).logits, expected[:, 0])
    model.puppet.leave_at([1])
    with pytest.raises(ValueError, match="cannot go on from an exit"):
        pj.compile_predict(model, confidence=0.5)
    model.puppet.leave_at(None)


def test_a_draw_chooses_what_is_between_the_least_and_the_greatest():
    model = with_exits((1, 2, 3, 4))
    by_pass = lambda draw: pj.Puppet.at_exits(  # noqa: E731
        model.puppet, images_of() / 255, *given(model), draw=jnp.asarray(draw)
    )
    everything = model.at_exits(images_of())
    for draw, between in ((0, 1), (1, 2), (2, 3), (3, 1)):
        assert close(by_pass(draw), everything[:, jnp.array([0, between, 4])])


def given(model):
    count = len(images_of())
    zero = jnp.zeros(count, jnp.int32)
    bank = model.puppeteer.bank(jnp.zeros(1))
    return (zero,) * len(bank), bank, zero + model.max_depth, zero


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: with_exits((0, 3)), r"exits: must lie in 1\.\.5, got 0"),
        (lambda: with_exits(depth=6), "depth 6, the puppet at most 5"),
        (lambda: pj.compile_predict(with_exits(), depth=2), r"depth must be one of \(1, 3, 5\), got 2"),
        (lambda: pj.compile_predict(with_exits(), confidence=0), r"a probability in \(0, 1\], got 0"),
        (lambda: pj.compile_predict(model_of(), confidence=0.5), "trained with exits; create it with them"),
    ],
)
def test_what_cannot_be_is_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()
