import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from puppetized import FULL, holding_its_own, images_of, net_of, original, puppet_of, stored
from small import close

import puppet_jax as pj

# ---- The same network


@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_with_its_own_kernels_it_is_the_original_and_the_original_is_untouched(name):
    net = net_of(name)
    before = jax.tree.map(np.asarray, nnx.state(net, nnx.Not(nnx.RngState)))
    graph = nnx.graphdef(net)
    model, images = holding_its_own(net, measurement=FULL), images_of(3)
    model.set_attributes(use_running_average=False)  # in vain
    expected = original(net, images / np.float32(255))
    assert model.puppet.kept == ()
    assert close(model(images), expected)
    assert close(pj.compile_predict(model, chunk=4)(images).logits, expected)
    assert nnx.graphdef(net) == graph
    averages = (jax.tree.leaves(nnx.state(each, nnx.BatchStat)) for each in (model, net))
    jax.tree.map(np.testing.assert_array_equal, *averages)
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(net, nnx.Not(nnx.RngState)))


class Block(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(6, 6, (3, 3), rngs=rngs)

    def __call__(self, x):
        return x + nnx.tanh(self.conv(x))


@nnx.vmap(in_axes=0)
def stacked(rngs):
    return Block(rngs)


class Odd(nnx.Module):
    """Every kind of convolution, named so that the alphabet is not the order of the calls."""

    def __init__(self, rngs):
        self.z_first = nnx.Conv(3, 6, (5, 5), strides=(2, 1), padding="VALID", rngs=rngs)
        self.y_grouped = nnx.Conv(6, 4, (3, 3), feature_group_count=2, padding=((1, 2), (0, 1)), rngs=rngs)
        self.x_dilated = nnx.Conv(4, 6, (3, 3), kernel_dilation=2, rngs=rngs)
        self.w_circular = nnx.Conv(6, 6, (3, 3), padding="CIRCULAR", rngs=rngs)
        self.v_half = nnx.Conv(6, 6, (2, 2), input_dilation=2, padding=1, dtype=jnp.bfloat16, rngs=rngs)
        self.u_long = nnx.Conv(6, 6, (1, 3), rngs=rngs)
        self.t_masked = nnx.Conv(6, 6, (3, 3), rngs=rngs)
        self.s_one = nnx.Conv(6, 6, (1, 1), feature_group_count=6, rngs=rngs)
        self.r_line = nnx.Conv(6, 6, (3,), rngs=rngs)
        self.q_up = nnx.ConvTranspose(6, 6, (2, 2), rngs=rngs)
        self.p_unused = nnx.Conv(6, 6, (3, 3), rngs=rngs)
        self.o_normed = nnx.WeightNorm(nnx.Conv(6, 6, (3, 3), rngs=rngs), rngs=rngs)
        self.n_tied = nnx.Conv(6, 6, (3, 3), rngs=rngs)
        self.m_tied = nnx.Conv(6, 6, (3, 3), kernel_dilation=2, rngs=rngs)
        self.m_tied.kernel = self.n_tied.kernel
        self.l_deep = nnx.Conv(6, 6, (2, 3, 1), feature_group_count=3, padding="SAME", rngs=rngs)
        self.k_stack = stacked(rngs.split(2))
        self.j_read = nnx.Conv(6, 6, (3, 3), rngs=rngs)
        self.i_param = nnx.Param(jax.random.normal(rngs.params(), (3, 3, 6, 6)) / 8)
        self.h_up = nnx.ConvTranspose(6, 6, (3, 2), (2, 1), padding="VALID", rngs=rngs)
        self.a_last = nnx.Conv(6, 6, (3, 3), precision="highest", rngs=rngs)
        self.head = nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, x):
        for layer in (self.z_first, self.y_grouped, self.x_dilated, self.w_circular, self.v_half, self.u_long):
            x = nnx.tanh(layer(x)).astype(jnp.float32)
        for layer in (self.t_masked, self.s_one, self.r_line, self.q_up, self.o_normed, self.n_tied, self.m_tied):
            x = x + layer(x)
        frames = jnp.stack([x, jnp.flip(x, 1), x * x], 1)
        x = self.l_deep(frames)[:, 1]
        x = nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.k_stack)
        for kernel in (self.j_read.kernel[...], self.i_param[...]):
            x = x + jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return self.head(self.a_last(self.h_up(x)).mean((1, 2)))


def test_every_kind_of_convolution_is_generated_or_kept_with_the_reason():
    net = Odd(nnx.Rngs(0))  # not drawn: scales of WeightNorm are no variables
    net.t_masked.mask = nnx.data(jnp.tri(6) * jnp.ones((3, 3, 1, 1)))
    model = holding_its_own(net, batch_norm=None, measurement=FULL)
    puppet = model.puppet
    assert puppet.names == (
        *("z_first", "y_grouped", "x_dilated", "w_circular", "v_half", "u_long", "r_line", "q_up", "n_tied", "l_deep"),
        *("k_stack.conv.0", "k_stack.conv.1", "h_up", "a_last"),
    )
    assert puppet.kernel_shapes[:3] == ((6, 3, 5, 5), (4, 3, 3, 3), (6, 4, 3, 3))
    assert puppet.kernel_shapes[5:10] == ((6, 6, 1, 3), (6, 6, 1, 3), (6, 6, 2, 2), (6, 6, 3, 3), (6, 4, 3, 1))
    reasons = dict(puppet.kept)
    for name, words in {
        "t_masked": "reads or changes its kernel",
        "s_one": "one weight",
        "p_unused": "does not call",
        "o_normed.layer_instance": "reads or changes its kernel",
        "j_read": "convolves with it by itself",
        "i_param": "no layer's kernel",
    }.items():
        assert words in reasons.pop(name)
    assert not reasons
    images = images_of(3)
    expected = original(net, images / np.float32(255))
    assert close(model(images), expected, 1e-2)  # one layer computes in bfloat16
    assert close(pj.compile_predict(model, chunk=4)(images).logits, expected, 1e-2)


# ---- Depth


def test_skipping_is_removing_the_blocks_by_hand():
    net = net_of("resnet")
    model = holding_its_own(net)
    assert model.max_depth == 7
    assert model.puppet.sequences == ((1, 4, 7), (1, 5), (1, 6))
    image = jnp.asarray(images_of(3)[0] / np.float32(255))
    kernels = model.puppeteer(0.0)
    masked = jax.jit(lambda d: model.puppet(image, kernels, d))
    branched = jax.jit(lambda d: model.puppet(image, kernels, d, deepest=d))
    for depth, skipped in (1, {1, 2, 5, 8}), (5, {2, 8}), (7, set()):
        shorter = nnx.clone(net)
        shorter.blocks = nnx.List([block for i, block in enumerate(net.blocks) if i not in skipped])
        expected = original(shorter, image[None])[0]
        assert close(masked(depth), expected)
        assert close(branched(depth), expected)
    assert close(jax.jit(lambda x: model.puppet(x, kernels, 5))(image), masked(5))


def test_blocks_named_by_the_caller():
    net = net_of("resnet")
    assert puppet_of(net, stored, blocks=()).puppet.sequences == ()
    named = puppet_of(net, stored, blocks=[["blocks.8", "blocks.7"], ["blocks.1"]], max_depth=2).puppet
    assert (named.sequences, named.max_depth) == (((1, 2), (1,)), 2)
    assert dict(zip(named.names, named.levels, strict=True))["blocks.7.conv1"] == 2
    whole = puppet_of(
        net_of("mobilenet"), stored, blocks=[["features.layers.0", "features.layers.1"], ["features.layers.3"]]
    ).puppet
    assert whole.sequences == ((1, 3), (1,))


# ---- As any PuppetCNN


def test_parameters_before_and_after():
    net = net_of("mobilenet")
    model = puppet_of(net)
    counts = pj.summary(model)
    everything = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(net, nnx.Param)))
    kernels = sum(m.kernel.size for _, m in nnx.iter_modules(net) if isinstance(m, nnx.Conv))
    norms = sum(2 * m.num_features for _, m in nnx.iter_modules(net) if isinstance(m, nnx.BatchNorm))
    assert counts.static_twin == everything
    assert counts.static_kernels == kernels
    assert counts.normalisation == norms
    assert counts.head == everything - kernels - norms
    assert counts.total == sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


# ---- Batch normalisation and random streams


def test_group_normalisation_has_the_layers_scale_and_shift():
    norm = nnx.BatchNorm(12, epsilon=1e-3, rngs=nnx.Rngs(0))
    norm.scale[...], norm.bias[...] = jnp.linspace(0.5, 2, 12), jnp.linspace(-1, 1, 12)
    same = nnx.GroupNorm(12, num_groups=4, epsilon=1e-3, use_fast_variance=False, rngs=nnx.Rngs(0))
    same.scale, same.bias = norm.scale, norm.bias
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 12)) * 0.03 + 1  # of a variance near epsilon

    net = nnx.Sequential(nnx.Conv(3, 12, (3, 3), rngs=nnx.Rngs(0)), norm)
    replaced = puppet_of(net, "stored", batch_norm="group").puppet.body.layers[1]
    assert close(jax.jit(lambda x: replaced(x))(x), jax.jit(lambda x: same(x))(x))
    gradient = nnx.jit(nnx.grad(lambda norm, x: jnp.sum(jnp.sin(5 * norm(x))), argnums=(0, 1)))
    assert close(gradient(replaced, x), gradient(same, x))
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
    copy = pickle.loads(pickle.dumps(model))  # of classes derived from its own
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


def test_apply_hands_over_random_streams():
    dropout = nnx.Dropout(0.5)  # outside of the module, as one that takes its streams as an argument
    apply = lambda module, x, rngs: dropout(module(x).mean((1, 2)), rngs=rngs)  # noqa: E731
    model = puppet_of(nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0)), "stored", batch_norm=None, apply=apply)
    images = np.repeat(images_of(3)[:1], 8, axis=0)
    assert len(np.unique(np.round(model(images), 5), axis=0)) > 2
    model.eval()
    assert close(model(images), jnp.broadcast_to(model(images[0]), (8, 4)))


# ---- Refusals


class Returning(nnx.Module):
    def __init__(self, result):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))
        self.blocks = nnx.List([nnx.Sequential(nnx.Conv(4, 4, (3, 3), strides=2, rngs=nnx.Rngs(0))) for _ in range(2)])
        self.result = result

    def __call__(self, x):
        return self.result(self.blocks[0](self.conv(x)))


@pytest.mark.usefixtures("no_type_checker")
def test_refusals_say_what_why_and_the_way_out():
    good = Returning(lambda x: x.mean((1, 2)))
    net = net_of("resnet")
    cases = [
        (net, {"batch_norm": None}, r"19 nnx.BatchNorm \(.*neighbours.*\"group\".*\"running\""),
        (net, {"blocks": ["blokcs"]}, "'blokcs', which is not in the module; in its lists are blocks.0"),
        (net, {"blocks": ["blocks"]}, r"'blocks.3' in blocks cannot be skipped: it maps .* must keep shape"),
        (net, {"max_depth": 0}, "max_depth must be at least 1"),
        (net, {"shape": (8, 8, 4)}, r"could not be called on .*correct image_shape.*apply="),
        (good, {"blocks": ["blocks"]}, "it maps|calls it 0 times"),
        (good, {"puppeteer": "sirens"}, "unknown puppeteer 'sirens'; there are continuous"),
        (Returning(lambda x: x.mean()), {}, r"must return arrays \(N, ….*got shapes \(\).*apply="),
        (nnx.Linear(3, 4, rngs=nnx.Rngs(0)), {"apply": lambda m, x, r: m(x).mean((1, 2))}, "no nnx.Conv in the module"),
    ]
    for module, options, words in cases:
        with pytest.raises(ValueError, match=f"(?s){words}"):
            puppet_of(module, **{"puppeteer": stored, **options})
    with pytest.raises(TypeError, match=r"flax\.nnx\.Module"):
        puppet_of(lambda x: x, "stored")
    assert puppet_of(good, stored).puppet.sequences == ()  # one is not called, the other halves the map
    model = puppet_of(good, stored)
    with pytest.raises(ValueError, match="image_shape="):
        model(np.zeros((8, 8, 1), np.uint8))
    with pytest.raises(ValueError, match="a type of its own"):
        pj.compile_predict(model, dtype=jnp.bfloat16)
