"""One step: a teacher, parts of a batch, bfloat16. Steps: see test_train_by_hand.py."""

import functools

import numpy as np
import optax
import pytest
from flax import nnx
from sklearn.utils.class_weight import compute_sample_weight
from trained_runs import small_digits

from puppet_jax._pretrained import flat
from train import data, devices
from train.build import build
from train.config import Config, resolve
from train.steps.optimiser import make_optimiser
from train.steps.progress import means
from train.steps.step import empty_tally, make_train_step, start


def batch():
    split = small_digits().train
    return split.images[:16], split.labels[:16]


@functools.cache
def begun(taught=False, **fields):
    """A model; its step by plain descent, by which a parameter changes by its gradient; what makes its first state."""
    usual = {"puppeteer": "stored", "width": 8, "batch_size": 16, "label_smoothing": 0.1, "augment": "none"}
    config = resolve(Config(devices=1, ema=0.5, **usual | fields))
    mesh = devices.make_mesh(config)
    model = build(config, num_classes=10, in_channels=1)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    optimiser = optax.sgd(1.0)
    teacher, teaching = nnx.split(other_model()) if taught else (None, None)
    weights = data.class_weights(data.Split(*batch()), 10) if config.class_weights == "balanced" else None
    step = make_train_step(graphdef, lambda _: optimiser, config, mesh, teacher, weights)
    step = functools.partial(step, numbers=(config.seed, 1), teaching=teaching)
    one = lambda state, tally: step(state, tally, rest, *batch(), np.zeros(mesh.size, np.int32))  # noqa: E731
    return model, one, lambda: (start(params, optimiser, config), empty_tally())


@functools.cache
def other_model():
    return build(resolve(Config(puppeteer="stored", width=8, seed=1)), num_classes=10, in_channels=1)


def gradient(**fields):
    model, step, first = begun(**fields)
    state, tally = step(*first())
    # The step takes the buffers of its state, which are not the model's.
    before, after = flat(nnx.state(model, nnx.Param)), flat(state.params)
    return {name: before[name] - after[name] for name in before}, tally


def test_a_teacher_is_nine_tenths_of_the_loss():
    images, labels = batch()
    moved, tally = gradient(taught=True)
    of_student, of_teacher = (np.asarray(model(images), np.float64) for model in (begun()[0], other_model()))
    softmax = lambda logits: np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)  # noqa: E731
    warm, target = softmax(of_student / 4), softmax(of_teacher / 4)
    smooth = 0.9 * np.eye(10)[labels] + 0.01
    # What is told is the cross-entropy of the labels, as for the test images; what is learned shows in the gradient.
    expected = -np.log(softmax(of_student))[np.arange(16), labels]
    assert means(tally.sums)["loss"] == pytest.approx(expected.mean(), rel=1e-4)
    expected = 0.1 * (softmax(of_student) - smooth) + 0.9 * 4 * (warm - target)
    np.testing.assert_allclose(moved["puppet.head_bias"], expected.mean(0), rtol=1e-3, atol=1e-6)


def test_the_loss_of_an_exit_before_the_last_is_half_as_heavy():
    images, labels = batch()
    moved, _ = gradient(exits="2,4", label_smoothing=0.0)
    wrong = np.asarray(nnx.softmax(begun(exits="2,4")[0].at_exits(images))) - np.eye(10)[labels][:, None]
    biases = [*moved["puppet.early_biases"], moved["puppet.head_bias"]]
    np.testing.assert_allclose(biases, np.array([[0.25], [0.25], [0.5]]) * wrong.mean(0), rtol=1e-3, atol=1e-6)


def test_classes_count_alike_where_they_are_weighted():
    images, labels = batch()
    moved, _ = gradient(class_weights="balanced", label_smoothing=0.0)
    weights = compute_sample_weight("balanced", labels)
    assert (weights.mean(), len(set(weights)) > 1) == (pytest.approx(1), True)
    wrong = np.asarray(nnx.softmax(begun()[0](images))) - np.eye(10)[labels]
    np.testing.assert_allclose(moved["puppet.head_bias"], (weights[:, None] * wrong).mean(0), rtol=1e-3, atol=1e-6)


def test_another_seed_and_length_need_no_other_program():
    def lowered(seed, steps):
        config = resolve(Config(seed=seed, batch_size=16, devices=1))
        mesh = devices.make_mesh(config)
        graphdef, params, rest = nnx.split(build(config, num_classes=10, in_channels=1), nnx.Param, ...)
        optimiser = functools.partial(make_optimiser, config)
        state = start(params, optimiser(steps), config)
        images, labels = batch()
        step = make_train_step(graphdef, optimiser, config, mesh)
        given = images, labels, np.zeros(1, np.int32)
        return step.lower(state, empty_tally(), rest, *given, numbers=(np.uint32(seed), np.int32(steps))).as_text()

    assert lowered(0, 10) == lowered(7, 300)


def test_bfloat16_computes_in_it_and_keeps_parameters_in_float32():
    (exact, _), (rough, _) = gradient(), gradient(dtype="bfloat16")
    assert {value.dtype for value in rough.values()} == {np.dtype("float32")}
    error = np.linalg.norm(rough["puppet.head"] - exact["puppet.head"]) / np.linalg.norm(exact["puppet.head"])
    assert 1e-4 < error < 0.1
