"""Nets with the traits of those in model zoos: which parts are skipped, what may be returned, what is refused."""

import dataclasses
import functools
import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from puppetized import FULL, holding_its_own, images_of, original, puppet_of, stored
from small import close, drawn, one_by_one

import puppet_jax as pj
from puppet_jax._model import continuous_of


def conv(c_in, c_out, k=3, **options):
    return nnx.Conv(c_in, c_out, (k, k), rngs=nnx.Rngs(0), **options)


class Net(nnx.Module):
    """A stem, ``parts`` by name, and what ``forward`` does with them."""

    def __init__(self, forward, c_in=3, width=4, **parts):
        self.forward = forward
        self.stem = conv(c_in, width)
        for name, part in parts.items():
            setattr(self, name, part)

    def __call__(self, x):
        return self.forward(self, self.stem(x)).mean((1, 2))


class Branch(nnx.Module):
    def __init__(self, returns=lambda x, y: y):
        self.conv = conv(4, 4, use_bias=False)
        self.returns = returns

    def __call__(self, x):
        return self.returns(x, nnx.tanh(self.conv(x)))


def in_turn(net, x):
    for layer in net.layers:
        x = layer(x)
    return x


def added(net, x):
    for layer in net.layers:
        x = x + 0.5 * layer(x) if isinstance(layer, Branch) else layer(x)
    return x


def multiplied(net, x):
    for layer in net.layers:
        x = x * nnx.sigmoid(layer(x))
    return x


def numbered(net, x):
    return net.block3(net.block2(net.block1(x)))


def three(make):
    return nnx.List([make(i) for i in range(3)])


# What is left with the second and third block skipped, of a forward on the stem's result.
CASES = {
    "numbered": (
        lambda: Net(numbered, **{f"block{i}": Branch(returns=jnp.add) for i in (1, 2, 3)}),
        "block1 block2 block3",
        lambda net, x: net.block1(x),
    ),
    "added outside": (
        lambda: Net(added, layers=three(lambda i: Branch())),
        "layers.0 layers.1 layers.2",
        lambda net, x: x + 0.5 * net.layers[0](x),
    ),
    "convolutions": (
        lambda: Net(in_turn, layers=nnx.List([conv(4, 4), nnx.relu, conv(4, 4), nnx.relu, conv(4, 4)])),
        "layers.0 layers.2 layers.4",
        lambda net, x: nnx.relu(net.layers[0](x)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_skipped_block_is_a_branch_that_is_zero(name):
    make, blocks, shallow = CASES[name]
    net = drawn(make)
    model = holding_its_own(net, batch_norm=None)
    puppet, kernels = model.puppet, model.puppeteer(0.0)
    assert [block for block, _ in puppet.blocks] == blocks.split()
    assert puppet.sequences == ((1, 2, 3),)
    images = images_of(3) / np.float32(255)
    runs = jax.jit(lambda image, d: puppet(image, kernels, d))
    assert close(runs(images[0], 3), original(net, images[:1])[0], 1e-5)
    expected = shallow(net, net.stem(images[:1])).mean((1, 2))[0]
    assert close(runs(images[0], 1), expected, 1e-5)
    assert close(jax.jit(lambda image: puppet(image, kernels, 1))(images[0]), expected, 1e-5)


def test_gradients_with_skipped_blocks_of_infinite_slope_are_those_of_each_image():
    def steep(x, y):
        return x + y * jnp.sqrt(jnp.sum(y**2, (1, 2), keepdims=True))

    model = puppet_of(drawn(lambda: Net(in_turn, layers=three(lambda i: Branch(returns=steep)))), batch_norm=None)
    images = images_of(3)
    gradients = [
        nnx.jit(nnx.grad(lambda model, images, run=run: jnp.sum(jnp.tanh(run(model, images)))))(model, images)
        for run in (lambda model, images: model(images), one_by_one)
    ]
    assert len(set(np.asarray(model.measure(images)[1]))) > 1
    assert close(*gradients, 1e-3)


def test_what_always_runs_is_told_with_the_reason():
    net = Net(multiplied, layers=three(lambda i: Branch()))
    puppet = puppet_of(net, stored, batch_norm=None).puppet
    assert puppet.blocks == ()
    reasons = dict(puppet.always)
    assert "no list" in reasons["stem"]
    assert "layers.1: neither its argument nor zeros" in reasons["layers.1.conv"]
    with pytest.raises(ValueError, match=r"'layers.0' in blocks cannot be skipped: neither its argument"):
        puppet_of(net, stored, blocks=["layers"])


def by_class(net, x):
    for layer in net.layers:
        x = nnx.relu(layer(x)) if type(layer) is nnx.BatchNorm else layer(x)
    return x


def test_a_forward_that_looks_at_what_is_replaced_is_refused():
    net = Net(by_class, layers=nnx.List([conv(4, 4), nnx.BatchNorm(4, rngs=nnx.Rngs(0))]))
    net.eval()
    with pytest.raises(
        ValueError, match=r"own kernels the puppet computes something else.* type\(layer\) is nnx.BatchNorm"
    ):
        puppet_of(net, stored)


# ---- What is between images and between calls


class OwnNorm(nnx.Module):
    """A batch normalisation of one's own."""

    def __init__(self):
        self.mean, self.use_running_average = nnx.BatchStat(jnp.zeros(4)), False

    def __call__(self, x):
        if self.use_running_average:
            return x - self.mean[...]
        mean = x.mean((0, 1, 2))
        self.mean[...] = 0.9 * self.mean[...] + 0.1 * mean
        return x - mean


class Counter(nnx.Module):
    """Counts its calls, and keeps what it was last given, which no call reads."""

    def __init__(self):
        self.calls, self.last = nnx.Variable(jnp.zeros(())), nnx.Variable(jnp.zeros((2, 8, 8, 4)))

    def __call__(self, x):
        self.calls[...] += 1
        self.last.set_value(x)
        return x


class DropPath(nnx.Module):
    """Draws in training mode, or always."""

    def __init__(self, always):
        self.rngs, self.always, self.deterministic = nnx.Rngs(0), always, False

    def __call__(self, x):
        if self.deterministic and not self.always:
            return x
        return x * jax.random.bernoulli(self.rngs(), 0.5, (len(x), 1, 1, x.shape[-1]))


def test_what_is_lost_between_calls_and_images_is_told():
    with pytest.raises(ValueError, match=r"in training mode depends on .*writes layers\.1\.mean\); take statistics"):
        puppet_of(Net(in_turn, layers=nnx.List([conv(4, 4), OwnNorm()])), stored, batch_norm=None)
    with pytest.raises(ValueError, match="an image depends on the other images"):
        puppet_of(Net(lambda net, x: x + x.std(0), layers=nnx.List([])), stored, batch_norm=None)
    with pytest.warns(UserWarning, match=r"forward changes layers\.1\.calls, which stay as they are"):
        puppet_of(Net(in_turn, layers=nnx.List([conv(4, 4), Counter()])), stored, batch_norm=None)


@pytest.mark.parametrize("always", [False, True])
def test_layers_of_ones_own_draw_for_each_call_or_for_each_image(always):
    net = Net(in_turn, layers=nnx.List([conv(4, 4), DropPath(always)]))
    model = puppet_of(net, "stored", batch_norm=None)
    images = np.concatenate([images_of(3)[:3]] * 2)
    first = model(images)
    assert not close(first[:3], first[3:], 1e-2)
    assert not close(first, model(images), 1e-2)
    model.eval()
    still = model(images)
    assert close(still, model(images), 1e-6)
    assert close(still[:3], still[3:], 1e-6)
    assert close(pj.compile_predict(model)(images[::-1]).logits, still[::-1], 1e-5)
    assert bool((still[0] == 0).any()) == always  # a channel that is dropped


def test_an_image_of_one_grey_through_patches_is_not_answered_with_rounding():
    layers = [conv(3, 16, 4, strides=4), *(conv(16, 16) for _ in range(2))]
    net = nnx.Sequential(*(part for layer in layers for part in (layer, nnx.BatchNorm(16, rngs=nnx.Rngs(0)))))
    mean = lambda net, x, rngs: net(x).mean((1, 2))  # noqa: E731
    model = puppet_of(net, batch_norm="group", apply=mean, measurement=FULL)
    model.puppet.body.layers[5].bias[...] = jnp.arange(16.0)
    grey, depth = np.full((2, 8, 8, 3), 137, np.uint8), model.max_depth
    kernels = jax.jit(model.puppeteer)(model.measure(grey[0])[0])
    by_hand = jax.jit(lambda x: model.puppet(x, kernels, depth, lowering="gathered"))(grey[0] / np.float32(255))
    for answer in (model(grey)[0], model(grey[0]), pj.compile_predict(model)(grey).logits[1], by_hand):
        assert close(answer, jnp.arange(16.0))


@dataclasses.dataclass(frozen=True)
class Config:
    widths: list
    scale: float = 0.1


class Scaled(nnx.Module):
    """Depthwise 7×7, squeeze and excitation, layer scale; takes further arguments."""

    def __init__(self, cfg):
        self.config = cfg
        width = cfg.widths[0]
        self.depthwise = conv(width, width, 7, feature_group_count=width)
        self.down, self.up = conv(width, 2, 1), conv(2, width, 1)
        self.gamma = nnx.Param(cfg.scale * jnp.ones(width))

    def __call__(self, x, *, key, train):
        y = self.depthwise(x)
        y = y * nnx.sigmoid(self.up(nnx.relu(self.down(y.mean((1, 2), keepdims=True)))))
        y = y * jax.random.bernoulli(key, 0.9, y.shape) if train else y
        return x + self.gamma[...] * y


class Pixels(nnx.Module):
    """Two scales with a skip between them, an answer for each pixel and one for the image."""

    def __init__(self, cfg):
        self.config, self.settings = cfg, {"widths": cfg.widths}
        self.stem = conv(3, 4)
        self.blocks = nnx.List([Scaled(cfg) for _ in range(2)])
        self.merge = conv(8, 2)
        self.head = conv(4, 3, 1)

    def __call__(self, x, key, train=False):
        first = self.stem(x)
        x = nnx.max_pool(first, (2, 2), strides=(2, 2))
        for block in self.blocks:
            x = block(x, key=key, train=train)
        up = jax.image.resize(x, first.shape, "nearest")
        return {
            "mask": self.merge(jnp.concatenate([first, up], -1)),
            "heads": [self.head(x).mean((1, 2)), x.argmax(-1)],
        }


def call(module, images, rngs):
    return module(images, rngs.params() if rngs else None)


def test_any_output_and_static_state_that_does_not_hash(tmp_path):
    net = drawn(lambda: Pixels(Config([4, 4])))
    model = holding_its_own(net, batch_norm=None, apply=call, measurement=FULL)
    images = images_of(3)[:3]
    expected = nnx.jit(lambda net, x: call(net, x, None))(net, images / np.float32(255))
    found = model(images)
    assert close(found, expected)
    assert found["mask"].shape == (3, 8, 8, 2)
    assert found["heads"][1].dtype == jnp.int32
    assert (model.puppet.num_classes, model.max_depth, len(model.puppet.blocks)) == (None, 2, 2)
    assert close(jax.vmap(model)(images), expected)
    predict = pj.compile_predict(model, chunk=2)
    assert close(predict(images).logits, expected)
    pj.export(predict, tmp_path / "pixels", image_shape=(8, 8, 3), platforms=("cpu",))
    assert close(pj.load(tmp_path / "pixels")(images).logits, expected)
    with pytest.raises(ValueError, match="classes name logits"):
        pj.export(predict, tmp_path / "pixels", image_shape=(8, 8, 3), classes=["a", "b"])


# ---- Sizes


def test_sizes_are_solved_for():
    widths = (8, 16, 32, 64)
    shapes = [(b, a, 3, 3) for a, b in itertools.pairwise(widths)] + [(64, 64, 3, 3)] * 4 + [(64, 1, 5, 5)]
    for compression in (4, 10):
        make = functools.partial(continuous_of, shapes, compression=compression)
        made = nnx.eval_shape(lambda make=make: make(rngs=nnx.Rngs(0)))
        stored_count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(made, nnx.Param)))
        kernels = sum(map(np.prod, shapes))
        assert 0.7 * kernels < compression * stored_count <= kernels
        assert sorted(i for group in made.groups for i in group) == list(range(len(shapes)))
        assert len(made.sizes) == len(made.groups) > 1
    kernels = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))(jnp.float32(6.0)))
    assert tuple(kernel.shape for kernel in kernels) == tuple(shapes)
    model = nnx.eval_shape(lambda: pj.create("puppet_s", compression=20, rngs=nnx.Rngs(0)))
    assert 20 <= pj.summary(model).kernel_compression < 26
    assert model.puppeteer.sizes[-1] in str(pj.summary(model))


def test_a_puppet_larger_than_its_module_is_not_built_silently():
    net = Net(in_turn, layers=nnx.List([conv(4, 4)]))
    with pytest.warns(UserWarning, match=r"puppetize: .* stores [\d,]+ parameters for kernels that have 252"):
        puppet_of(net, batch_norm=None, puppeteer_options={"basis": 64})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        puppet_of(net, "stored", batch_norm=None)
    with pytest.raises(ValueError, match="give one or the other"):
        pj.create("puppet_s", compression=10, puppeteer_options={"rank": 1}, rngs=nnx.Rngs(0))
