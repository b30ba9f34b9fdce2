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
from puppet_jax.any_cnn._depth_levels import levels_of, number_of_depths

STAGES = (pj.StageSpec(4, 2), pj.StageSpec(8, 0, stride=2, kernel_size=1), pj.StageSpec(8, 2, stride=2))
LEVELS = {  # of the four blocks that may be skipped, at four depths
    "convolution": (1, 1, 3, 1, 1, 1, 4),
    "residual": (1, 1, 1, 3, 3, 1, 1, 1, 1, 1, 1, 4, 4),
}
RUNNING = {1: (1, 1), 2: (1, 1), 3: (2, 1), 4: (2, 2)}
KINDS = list(LEVELS)


@functools.cache
def puppet_of(kind, dtype=jnp.float32):
    options = {"in_channels": 2, "num_classes": 3, "norm_groups": 2, "dtype": dtype}
    return drawn(lambda: pj.StagedPuppet(STAGES, block=kind, **options, rngs=nnx.Rngs(0)))


@functools.cache
def kernels_of(kind):
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal(s) / np.sqrt(s[1]) for s in puppet_of(kind).kernel_shapes)


def numpy_puppet(kind, image, kernels, running):
    """The puppet's definition in float64 NumPy, of each stage the first ``running`` blocks that may be skipped."""
    puppet, index = puppet_of(kind), 0

    def unit(x, stride=1):
        nonlocal index
        y = reference.convolve(x, kernels[index], stride)
        groups = y.reshape(-1, 2, y.shape[2] // 2)
        groups = (groups - groups.mean((0, 2), keepdims=True)) / np.sqrt(groups.var((0, 2), keepdims=True) + 1e-5)
        scale, shift = (np.asarray(each[index][...], np.float64) for each in (puppet.norm_scale, puppet.norm_shift))
        index += 1
        return groups.reshape(y.shape) * scale + shift

    def block(x, stride=1):
        if kind == "convolution":
            h, w, c = x.shape
            cells = x[: h // stride * stride, : w // stride * stride]
            cells = cells.reshape(h // stride, stride, w // stride, stride, c)
            return np.maximum(unit(cells.mean((1, 3))), 0)
        y = unit(np.maximum(unit(x, stride), 0))
        shortcut = np.zeros_like(y)
        shortcut[:, :, : x.shape[2]] = x[::stride, ::stride]
        return np.maximum(y + shortcut, 0)

    x = (np.asarray(image, np.float64) - 0.5) * 4
    for number, (stage, runs) in enumerate(zip(STAGES, running, strict=True)):
        x = block(x, stage.stride) if number else np.maximum(unit(x, stage.stride), 0)
        for _ in range(runs):
            x = block(x)
        index += (stage.blocks - runs) * (2 if kind == "residual" else 1)
    assert index == len(kernels)
    return x.mean((0, 1)) @ np.asarray(puppet.head[...]) + np.asarray(puppet.head_bias[...])


def running_at(depth):
    first, last = RUNNING[depth]
    return first, 0, last


@pytest.mark.parametrize("kind", KINDS)
def test_is_the_definition_at_every_depth(kind, rng):
    puppet, kernels = puppet_of(kind), kernels_of(kind)
    assert (puppet.max_depth, puppet.levels) == (4, LEVELS[kind])
    image = rng.random((12, 8, 2))  # not square
    own = tuple(jnp.asarray(kernel, jnp.float32) for kernel in kernels)
    masked = jax.jit(lambda depth: puppet(jnp.asarray(image, jnp.float32), own, depth))
    for depth in RUNNING:
        expected = numpy_puppet(kind, image, kernels, running_at(depth))
        assert close(masked(jnp.int32(depth)), expected)
    cut = jax.jit(puppet, static_argnums=2)(jnp.asarray(image, jnp.float32), own, 3)
    assert close(cut, masked(jnp.int32(3)), 1e-5)
    half = jax.jit(puppet_of(kind, jnp.bfloat16))(jnp.asarray(image, jnp.float32), own, jnp.int32(4))
    assert half.dtype == jnp.float32
    assert close(half, masked(jnp.int32(4)), 0.1)


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
        assert counts.static_kernels == sum(int(np.prod(shape)) for shape in model.puppet.kernel_shapes)
        assert counts.normalisation == 2 * sum(shape[0] for shape in model.puppet.kernel_shapes)
        assert counts.head == 10 * (model.puppet.kernel_shapes[-1][0] + 1)
    assert pj.summary(resnet).kernel_compression > 10


@pytest.mark.usefixtures("no_type_checker")
def test_bad_input_is_refused():
    puppet, kernels = puppet_of("residual"), kernels_of("residual")
    for image, depth, words in (
        (np.zeros((3, 9, 2)), 1, "3×9 pixels is smaller than strides and pooling allow, 4×4"),
        (np.zeros((8, 8, 3)), 1, "in_channels=3"),
        (np.zeros((8, 8, 2)), 5, r"depth must lie in 1\.\.4, got 5"),
    ):
        with pytest.raises(ValueError, match=words):
            puppet(jnp.asarray(image), kernels, depth)
    with pytest.raises(ValueError, match="kernels must have shapes"):
        puppet(jnp.zeros((8, 8, 2)), kernels[:4], 2)
    common = {"in_channels": 1, "num_classes": 2, "rngs": nnx.Rngs(0)}
    for stages, options, words in (
        ((), {}, "one stage or more"),
        (STAGES[::-1], {}, r"must not fall, got \[8, 8, 4\]"),
        (STAGES, {"block": "dense"}, "block must be one of"),
        (STAGES, {"max_depth": 0}, "max_depth must be at least 1"),
        (STAGES, {"num_classes": 0}, "num_classes must be at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            pj.StagedPuppet(stages, **{**common, **options})
    for options in ({"width": 0, "blocks": 1}, {"width": 4, "blocks": -1}, {"width": 4, "blocks": 1, "stride": 0}):
        with pytest.raises(ValueError, match="StageSpec"):
            pj.StageSpec(**options)


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
    assert [number_of_depths(n, None, "x") for n in (0, 1, 7, 8, 30)] == [1, 1, 7, 8, 8]
    assert number_of_depths(3, 12, "x") == 12
    with pytest.raises(ValueError, match="somewhere: max_depth must be at least 1, got 0"):
        number_of_depths(3, 0, "somewhere")
