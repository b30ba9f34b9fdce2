"""Puppetized nets: what becomes of batch normalisation and of random streams."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from puppetized import FULL, holding_its_own, images_of, net_of, puppet_of
from small import close

import puppet_jax as pj


def test_running_averages_stay_in_training_too():
    net = nnx.clone(net_of("small"))
    for block in net.blocks:
        block.dropout.rate = 0.0
    model, images = holding_its_own(net, measurement=FULL), images_of(3)
    expected = model(images)
    averages = jax.tree.map(np.asarray, nnx.state(model, nnx.BatchStat))
    model.train()
    assert close(model(images), expected)
    jax.tree.map(np.testing.assert_array_equal, averages, nnx.state(model, nnx.BatchStat))


def test_group_normalisation_has_the_layers_scale_and_shift():
    norm = nnx.BatchNorm(12, epsilon=1e-3, rngs=nnx.Rngs(0))
    norm.scale[...], norm.bias[...] = jnp.linspace(0.5, 2, 12), jnp.linspace(-1, 1, 12)
    same = nnx.GroupNorm(12, num_groups=4, epsilon=1e-3, use_fast_variance=False, rngs=nnx.Rngs(0))
    same.scale, same.bias = norm.scale, norm.bias
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 12)) * 3 + 1

    class Net(nnx.Module):
        def __init__(self):
            self.conv = nnx.Conv(3, 12, (3, 3), rngs=nnx.Rngs(0))
            self.norm = norm

        def __call__(self, x):
            return self.norm(self.conv(x), use_running_average=False).mean((1, 2))

    replaced = puppet_of(Net(), "stored", batch_norm="group").puppet.body.norm
    assert close(jax.jit(lambda x: replaced(x))(x), jax.jit(lambda x: same(x))(x))
    vector = x[:, 0, 0]  # a map of one position is normalised over all channels
    each = (vector - vector.mean(1, keepdims=True)) / np.sqrt(vector.var(1, keepdims=True) + 1e-3)
    assert close(jax.jit(lambda x: replaced(x))(vector), each * norm.scale[...] + norm.bias[...])


def test_every_image_has_masks_of_its_own():
    net = net_of("small")
    model = puppet_of(net, "stored")
    images = np.repeat(images_of(3)[:1], 4, axis=0)
    still = model(images)
    assert close(still, model(images), 1e-6)
    assert close(still, jnp.broadcast_to(still[0], still.shape), 1e-5)
    model.train()
    copy = nnx.clone(model)
    first, second = model(images), model(images)
    for a in range(4):  # images differ from each other, and calls too
        assert not close(first[a], second[a], 1e-3)
        for b in range(a):
            assert not close(first[a], first[b], 1e-3)
    others = np.concatenate([images[:2], 255 - images[2:]])
    assert close(copy(others)[:2], first[:2], 1e-4)  # neighbours do not matter
    predict = pj.compile_predict(model)
    assert close(predict(images).logits, still, 1e-4)  # prediction is in evaluation mode
    model.eval()
    assert close(model(images), still, 1e-6)


class Drawing(nnx.Module):
    """Takes its random streams as an argument, and images of mean zero."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.dropout = nnx.Dropout(0.5)

    def __call__(self, x, rngs, scale):
        return self.dropout(self.conv(x - 0.5).mean((1, 2)), rngs=rngs) * scale


def test_apply_hands_over_arguments_and_random_streams():
    net = Drawing(nnx.Rngs(0))
    model = puppet_of(net, "stored", batch_norm=None, apply=lambda module, x, rngs: module(x, rngs, 2.0))
    images = np.repeat(images_of(3)[:1], 8, axis=0)
    logits = model(images)
    assert len(np.unique(np.round(logits, 5), axis=0)) > 2
    model.eval()
    assert close(model(images), jnp.broadcast_to(model(images[0]), (8, 4)))
