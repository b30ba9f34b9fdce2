"""The presets in stages against their definition in NumPy, and the rule that spreads depth over sequences of blocks."""

import functools
import math

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx
from hypothesis import given
from small import close, drawn

import puppet_jax as pj
from puppet_jax.any_cnn._blocks import levels_of, number_of_depths

# How many blocks of each stage run, of those that may be skipped, at depths 1, 4 and 7.
RUNNING = {
    "puppet_vgg_s": {1: (1, 1, 1), 4: (1, 1, 2), 7: (2, 2, 3)},
    "puppet_resnet_s": {1: (1, 1, 1), 4: (2, 1, 1), 7: (3, 2, 2)},
}


@functools.cache
def model_of(preset, dtype=jnp.float32):
    options = {"puppeteer": "stored", "width": 4, "in_channels": 2, "num_classes": 3, "dtype": dtype}
    return drawn(lambda: pj.create(preset, **options, rngs=nnx.Rngs(0)))


def in_numpy(preset, image, kernels, running):
    """The preset's definition in float64 NumPy, of each stage the first ``running`` blocks that may be skipped."""
    net, index = model_of(preset).puppet.body, 0
    residual = preset == "puppet_resnet_s"
    norms = [net.stem.norm]
    for block in net.blocks:
        norms += [block.first_norm, block.last_norm] if residual else [block.norm]

    def unit(x, stride=1):
        nonlocal index
        y = reference.convolve(x, kernels[index], stride)
        norm, index = norms[index], index + 1
        return reference.group_norm(y, math.gcd(8, y.shape[2]), norm.scale[...], norm.bias[...])

    def block(x, stride=1):
        if not residual:
            return np.maximum(unit(reference.mean_pool(x, stride)), 0)
        y = unit(np.maximum(unit(x, stride), 0))
        shortcut = np.zeros_like(y)
        shortcut[:, :, : x.shape[2]] = x[::stride, ::stride]
        return np.maximum(y + shortcut, 0)

    x = np.maximum(unit((np.asarray(image, np.float64) - 0.5) * 4), 0)
    for number, (runs, most) in enumerate(zip(running, RUNNING[preset][7], strict=True)):
        x = block(x, 2) if number else x
        for _ in range(runs):
            x = block(x)
        index += (most - runs) * (2 if residual else 1)
    assert index == len(kernels)
    return x.mean((0, 1)) @ np.asarray(net.head.kernel[...]) + np.asarray(net.head.bias[...])


@pytest.mark.parametrize("preset", RUNNING)
def test_is_the_definition_at_every_depth(preset, rng):
    puppet = model_of(preset).puppet
    kernels = [rng.standard_normal(shape) / np.sqrt(shape[1]) for shape in puppet.kernel_shapes]
    image = rng.random((12, 8, 2))  # not square
    own = tuple(jnp.asarray(kernel, jnp.float32) for kernel in kernels)
    run = jax.jit(lambda depth: puppet(jnp.asarray(image, jnp.float32), own, depth))
    for depth, running in RUNNING[preset].items():
        assert close(run(jnp.int32(depth)), in_numpy(preset, image, kernels, running))
    half = jax.jit(lambda x: model_of(preset, jnp.bfloat16).puppet(x, own, 7))(jnp.asarray(image, jnp.float32))
    assert half.dtype == jnp.float32
    assert close(half, in_numpy(preset, image, kernels, RUNNING[preset][7]), 0.1)


def test_presets_are_resnet_20_and_a_vgg():
    resnet = nnx.eval_shape(lambda: pj.create("puppet_resnet_s", rngs=nnx.Rngs(0)))
    widths = [16] * 7 + [32] * 6 + [64] * 6
    assert resnet.puppet.kernel_shapes == tuple((o, i, 3, 3) for i, o in zip([3, *widths], widths, strict=False))
    assert (resnet.max_depth, resnet.puppet.levels.count(1)) == (7, 11)
    vgg = nnx.eval_shape(lambda: pj.create("puppet_vgg_s", width=8, rngs=nnx.Rngs(0)))
    assert [shape[0] for shape in vgg.puppet.kernel_shapes] == [8, 8, 8, 16, 16, 16, 32, 32, 32, 32]
    assert vgg.puppet.levels == (1, 1, 5, 1, 1, 6, 1, 1, 4, 7)
    for model in (resnet, vgg):
        counts = pj.summary(model)
        assert counts.normalisation == 2 * sum(shape[0] for shape in model.puppet.kernel_shapes)
        assert counts.head == 10 * (model.puppet.kernel_shapes[-1][0] + 1)
    assert pj.summary(resnet).kernel_compression > 10
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        pj.create("puppet_resnet_s", width=0, rngs=nnx.Rngs(0))


@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5), most=st.integers(1, 12))
def test_the_rule_that_spreads_depth_against_choosing_blocks_one_by_one(lengths, most):
    levels = levels_of(lengths, most)
    n = sum(lengths)
    assert [len(each) for each in levels] == lengths
    shallower: set = set()
    for depth in range(1, most + 1):
        running = {(s, i) for s, each in enumerate(levels) for i, level in enumerate(each) if level <= depth}
        # By the rule in words: the firsts, and again and again the block of the sequence that is filled up least.
        expected = {(s, 0) for s, length in enumerate(lengths) if length}
        while len(expected) < math.ceil(n * depth / most):
            rest = [(s, i) for s, length in enumerate(lengths) for i in range(length) if (s, i) not in expected]
            expected.add(min(rest, key=lambda block: (block[1] / lengths[block[0]], block[0])))
        assert running == expected
        assert running >= shallower
        shallower = running
    assert len(shallower) == n


def test_depths_are_one_a_block_up_to_eight():
    assert [number_of_depths(n, None) for n in (0, 1, 7, 8, 30)] == [1, 1, 7, 8, 8]
    assert number_of_depths(3, 12) == 12
    with pytest.raises(ValueError, match="puppetize: max_depth must be at least 1, got 0"):
        number_of_depths(3, 0)
