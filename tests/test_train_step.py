"""One step by hand: loss, tally, gradient, average; its formulations against each other; evaluation and measures."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from trained_runs import small_digits

from train import devices
from train.build import build
from train.config import Config, resolve
from train.runs import parameters
from train.steps.evaluation import accuracy_by, evaluate, measure
from train.steps.optimiser import make_optimiser
from train.steps.progress import means
from train.steps.step import empty_tally, make_eval_step, make_train_step, start


def cross_entropy(logits, targets):
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return -np.sum(targets * (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))), -1)


@pytest.fixture
def small():
    return small_digits().train, small_digits().test


def first_step(optimiser, images, labels, steps=1, **fields):
    """Model, state and tally after steps on one batch; and each step's parameters, their average, its tally."""
    config = resolve(Config(width=8, batch_size=len(labels), devices=1, **fields))
    mesh = devices.make_mesh(config)
    model = build(config, num_classes=10, in_channels=1)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    optimiser = optimiser or make_optimiser(config, 10)
    step = make_train_step(graphdef, optimiser, config, mesh)
    state, tally = start(params, optimiser, config), empty_tally()
    each = []
    for _ in range(steps):
        state, tally = step(state, tally, rest, images, labels, np.zeros(mesh.size, np.int32))
        each.append((parameters.flat(state.params), parameters.flat(state.evaluated), tally))
    return model, state, tally, each


def gradient(images, labels, **fields):
    # Plain descent without clipping: the change of a parameter is its gradient.
    model, state, tally, _ = first_step(optax.sgd(1.0), images, labels, **fields)
    before, after = parameters.flat(nnx.state(model, nnx.Param)), parameters.flat(state.params)
    return {name: after[name] - before[name] for name in before}, tally


def test_a_batch_in_parts_is_the_same_step(small):
    images, labels = small[0].images[:32], small[0].labels[:32]
    (whole, told), (parts, also) = (
        gradient(images, labels, puppeteer="continuous", accumulate=accumulate) for accumulate in (1, 4)
    )
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-3, atol=1e-5 * np.abs(whole[name]).max())
    for one, other in zip(told.sums, also.sums, strict=True):
        assert float(one) == pytest.approx(float(other), rel=1e-6)


def test_a_step_tallies_and_moves_as_computed_by_hand(small):
    images, labels = small[0].images[:16], small[0].labels[:16]
    plain = {"augment": "none", "warmup": 0.0, "weight_decay": 0.0, "learning_rate": 1e-2, "label_smoothing": 0.1}
    model, state, tally, _ = first_step(None, images, labels, puppeteer="stored", **plain)
    smooth = 0.9 * np.eye(10)[labels] + 0.01
    logits = model(images)
    h, d = model.measure(images)
    assert means(tally.sums) == {
        "loss": pytest.approx(cross_entropy(logits, smooth).mean(), rel=1e-5),
        "accuracy": np.mean(np.argmax(logits, -1) == labels),
        "complexity": pytest.approx(float(np.mean(h)), rel=1e-6),
        "depth": float(np.mean(d)),
    }
    assert (int(tally.sums.seen), int(tally.step), int(state.step)) == (16, 1, 1)
    assert int(tally.bad_step) == int(tally.stop) == 0
    # The gradient of the head's bias is the mean of softmax minus target; Adam's first step is lr times its sign.
    exponentials = np.exp(np.asarray(logits, np.float64))
    expected = (exponentials / exponentials.sum(-1, keepdims=True) - smooth).mean(0)
    before = parameters.flat(nnx.state(model, nnx.Param))["puppet.head_bias"]
    moved = parameters.flat(state.params)["puppet.head_bias"] - before
    np.testing.assert_allclose(moved, -1e-2 * np.sign(expected), rtol=1e-3)
    # Donation took the state's own copy, not the model's parameters.
    np.testing.assert_array_equal(model.puppet.head_bias[...], before)


def test_the_average_is_what_is_evaluated(small):
    images, labels = small[0].images[:16], small[0].labels[:16]
    *_, ((first, average_1, _), (second, average_2, _)) = first_step(
        None, images, labels, puppeteer="stored", ema=0.5, steps=2
    )
    assert any(np.any(second[name] != first[name]) for name in first)
    for name in first:
        np.testing.assert_array_equal(average_1[name], first[name])
        expected = (0.5 * first[name] + second[name]) / 1.5
        np.testing.assert_allclose(average_2[name], expected, rtol=1e-5, atol=1e-7)


def test_the_first_bad_step_is_remembered(small):
    images, labels = small[0].images[:16], small[0].labels[:16]
    huge = optax.sgd(1e38)
    *_, each = first_step(huge, images, labels, puppeteer="stored", steps=3)
    # The loss of the first was computed before it moved.
    assert [int(tally.bad_step) for *_, tally in each] == [0, 2, 2]
    assert [int(tally.step) for *_, tally in each] == [1, 2, 3]


def test_bfloat16_computes_in_it_and_keeps_parameters_in_float32(small):
    images, labels = small[0].images[:16], small[0].labels[:16]
    exact, _ = gradient(images, labels, puppeteer="stored", augment="none")
    rough, _ = gradient(images, labels, puppeteer="stored", augment="none", dtype="bfloat16")
    assert {value.dtype for value in rough.values()} == {np.dtype("float32")}
    error = np.linalg.norm(rough["puppet.head"] - exact["puppet.head"]) / np.linalg.norm(exact["puppet.head"])
    assert 1e-4 < error < 0.1


def test_evaluation_counts_each_image_once_whatever_the_batch(small):
    config = resolve(Config(puppeteer="stored", width=8))
    mesh = devices.make_mesh(config)
    model = build(config, num_classes=10, in_channels=1)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    split = small[1]
    logits = np.asarray(model(split.images))
    for batch_size in (8, 64):
        loss, correct = evaluate(make_eval_step(graphdef, mesh), params, rest, split, batch_size, mesh)
        np.testing.assert_allclose(loss, cross_entropy(logits, np.eye(10)[split.labels]), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(correct, logits.argmax(-1) == split.labels)
    got = measure(model, split, 16, mesh)
    h, d = model.measure(jnp.asarray(split.images))
    np.testing.assert_allclose(got["complexity"], h, rtol=1e-6)
    np.testing.assert_array_equal(got["depth"], d)
    assert not got["clipped"].any()
    rows = accuracy_by("depth", np.array([3, 4, 3, 3]), np.array([True, False, False, True]))
    accuracy = {3: (3, pytest.approx(2 / 3)), 4: (1, 0.0)}
    assert {row["depth"]: (row["images"], row["accuracy"]) for row in rows} == accuracy
