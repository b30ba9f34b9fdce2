"""A batch through the puppet: the same as each image by itself, at the price of the bins and depths that are in it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import close, images_of, measured, model_of, one_by_one

import puppet_jax as pj
from puppet_jax import _batch as batch
from puppet_jax._batch import logits_from_bank, logits_of_batch, make_bank
from puppet_jax.any_cnn import _convolution as foreign
from puppet_jax.puppets import Puppet
from puppet_jax.puppets import _plain as plain


def of_batch(model, images):
    return logits_of_batch(model.puppet.batch, model.puppeteer, model.measurement, images, *model.measure(images))


def value_and_gradients(forward, model, images):
    """Logits, and the gradients of a loss in all parameters and the images, as one program."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, images):
        logits = forward(nnx.merge(graphdef, params, rest), images)
        return jnp.sum(jnp.tanh(logits) ** 2), logits

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, jnp.asarray(images / 255, jnp.float32))


@functools.cache
def expected_of(puppet, puppeteer, bin_):
    return value_and_gradients(one_by_one, model_of(puppet, puppeteer, bin=bin_), images_of())


MODELS = [
    ("plain", "continuous", 0.25),
    ("plain", "continuous", None),
    ("plain", "stored", 0.25),
    ("foreign", "continuous", 0.25),
]


@pytest.mark.parametrize(("puppet", "puppeteer", "bin_"), MODELS)
def test_values_and_gradients_are_those_of_each_images_own_kernels(puppet, puppeteer, bin_, request):
    if (puppet, puppeteer, bin_) == MODELS[0]:  # one of them: compiling takes twice as long
        request.getfixturevalue("optimised")
    model, images = model_of(puppet, puppeteer, bin=bin_), images_of()
    assert len(set(np.asarray(measured(model, images)[1]))) >= 2
    found = value_and_gradients(of_batch, model, images)
    assert close(found, expected_of(puppet, puppeteer, bin_), 3e-4)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("puppet", ["plain", "foreign"])
def test_a_batch_of_more_bins_than_slots_is_the_same(puppet, monkeypatch):
    model, images = model_of(puppet), images_of()
    expected = expected_of(puppet, "continuous", 0.25)
    monkeypatch.setattr(batch, "_SMALL", 0)
    monkeypatch.setattr(batch, "SLOTS", 3)  # for ten images: four passes, the last of which is not full
    assert close(value_and_gradients(of_batch, model, images), expected, 3e-4)
    few = np.array([1, 2, 1, 2, 2, 1, 1, 1, 2, 2])  # two bins: one pass, in a program that has both ways
    assert close(jax.jit(lambda x: of_batch(model, x))(images[few]), expected[0][1][few])


@pytest.mark.parametrize(
    ("puppeteer", "bin_", "bins", "generated"),
    # Eight slots for a batch of eight images or bins; the ODE has two halves, of which it leaves out the second.
    [
        ("continuous", 0.25, 5, 5),
        ("ode", 0.25, 4, 4),
        ("ode", 0.25, 5, 8),
        ("continuous", None, 2, 8),
        ("stored", 0.25, 8, 1),
    ],
)
def test_kernel_sets_are_generated_only_as_far_as_they_are_needed(puppeteer, bin_, bins, generated, monkeypatch):
    made = []

    def noted(*arguments, **options):
        bank = make_bank(*arguments, **options)
        jax.debug.callback(lambda kernels: made.append(int(kernels.any(axis=(1, 2, 3, 4)).sum())), bank.kernels[0])
        return bank

    monkeypatch.setattr(batch, "make_bank", noted)
    model = model_of("plain", puppeteer, bin=bin_)
    h = jnp.asarray(np.resize(pj.Measure().centres[8 : 8 + bins], 8))
    depth, images = jnp.ones(8, int), images_of()[:8]
    run = jax.jit(lambda x: logits_of_batch(model.puppet.batch, model.puppeteer, model.measurement, x, h, depth))
    found = jax.block_until_ready(run(images))
    jax.effects_barrier()
    assert sum(made) == generated
    each = [model.puppet(image, model.puppeteer(h), d) for image, h, d in zip(images / 255, h, depth, strict=True)]
    assert close(found, jnp.stack(each))


@pytest.mark.parametrize("chunk", [1, 10])
@pytest.mark.parametrize("puppet", ["plain", "foreign"])
def test_only_layers_that_an_images_depth_reaches_are_convolved(puppet, chunk, monkeypatch):
    """Counted at the convolution: images with a kernel to be convolved with, and branches that run at all."""
    model, images, chosen = model_of(puppet), images_of(), []
    levels = model.puppet.levels
    where, name = {"plain": (plain, "layer"), "foreign": (foreign, "convolve_grouped")}[puppet]
    convolve = getattr(where, name)

    def counting(image, kernel, *arguments, **options):
        jax.debug.callback(lambda index: chosen.append(int(index) >= 0), kernel.index)
        return convolve(image, kernel, *arguments, **options)

    monkeypatch.setattr(where, name, counting)
    h, d = map(jnp.asarray, measured(model, images))
    bank = make_bank(model.puppeteer, jnp.asarray(model.measurement.centres))
    place = model.measurement.index(h)
    jax.jit(lambda d: logits_from_bank(model.puppet.batch, bank, images, place, d, chunk))(d).block_until_ready()
    jax.effects_barrier()
    assert sum(chosen) == sum(int((d >= level).sum()) for level in levels)
    deepest = max(d) if chunk == 10 else None
    if chunk == 1:
        assert len(chosen) == sum(chosen)  # no branch is taken for nothing
    else:
        assert len(chosen) == 10 * sum(level <= deepest for level in levels)
    assert min(d) < max(levels)


@pytest.mark.parametrize("puppet", ["plain", "foreign"])
def test_puppets_keep_their_protocol(puppet):
    puppet = model_of(puppet).puppet
    assert isinstance(puppet, Puppet)
    assert len(puppet.levels) == len(puppet.kernel_shapes)
    assert min(puppet.levels) == 1
    assert max(puppet.levels) <= puppet.max_depth
    puppet.check((8, 8, 2), puppet.kernel_shapes, puppet.max_depth)
    for shape, kernels in (((8, 8, 1), puppet.kernel_shapes), ((8, 8, 2), puppet.kernel_shapes[:1])):
        with pytest.raises(ValueError, match=r"must|channels"):
            puppet.check(shape, kernels, puppet.max_depth)
    norms = jax.tree.leaves(nnx.state(puppet, nnx.Param))
    assert 0 < puppet.normalisation_count() < sum(leaf.size for leaf in norms)
    if not hasattr(puppet, "stream"):
        puppet.advance()  # there is none
