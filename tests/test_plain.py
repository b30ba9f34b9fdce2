import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx

import puppet_jax as pj
from puppet_jax.puppets.layers import least_size

LAYERS = (
    pj.LayerSpec(6, kernel_size=5),
    pj.LayerSpec(6, pool=2),
    pj.LayerSpec(8, stride=2),
    pj.LayerSpec(8, kernel_size=1),
    pj.LayerSpec(4, pool=2, pool_kind="average"),
)


@pytest.fixture
def puppet():
    puppet = pj.PlainPuppet(LAYERS, in_channels=2, num_classes=3, norm_groups=2, rngs=nnx.Rngs(0))
    for index, layer in enumerate(LAYERS):  # not the ones and zeros they start from
        puppet.norm_scale[index][...] = jnp.linspace(0.5, 1.5, layer.width)
        puppet.norm_shift[index][...] = jnp.linspace(-0.4, 0.6, layer.width)
    return puppet


@pytest.fixture
def kernels(puppet, rng):
    return tuple(jnp.asarray(rng.standard_normal(s) / np.sqrt(s[1]), jnp.float32) for s in puppet.kernel_shapes)


@pytest.fixture
def image(rng):
    return jnp.asarray(rng.random((13, 10, 2)), jnp.float32)


def numpy_puppet(puppet, image, kernels, depth):
    """The puppet's definition in float64 NumPy, cut off after ``depth`` layers."""
    x = (np.asarray(image, np.float64) - 0.5) * 4
    for index, spec in enumerate(puppet.layers[:depth]):
        y = reference.convolve(x, np.asarray(kernels[index], np.float64), spec.stride)
        groups = y.reshape(-1, puppet.norm_groups, spec.width // puppet.norm_groups)
        groups = (groups - groups.mean((0, 2), keepdims=True)) / np.sqrt(groups.var((0, 2), keepdims=True) + 1e-5)
        y = groups.reshape(y.shape) * np.asarray(puppet.norm_scale[index][...]) + np.asarray(
            puppet.norm_shift[index][...]
        )
        y = np.maximum(y, 0)
        y = y + x if y.shape == x.shape else y
        if spec.pool > 1:
            h, w = (n // spec.pool for n in y.shape[:2])
            cells = [
                y[i * spec.pool : (i + 1) * spec.pool, j * spec.pool : (j + 1) * spec.pool]
                for i in range(h)
                for j in range(w)
            ]
            reduce = np.max if spec.pool_kind == "max" else np.mean
            y = np.stack([reduce(cell, axis=(0, 1)) for cell in cells]).reshape(h, w, spec.width)
        x = y
    features = np.zeros(8)
    features[: x.shape[2]] = x.mean((0, 1))
    return features @ np.asarray(puppet.head[...]) + np.asarray(puppet.head_bias[...])


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_masked_is_truly_cut_off(puppet, kernels, image, depth):
    expected = numpy_puppet(puppet, image, kernels, depth)
    np.testing.assert_allclose(puppet(image, kernels, jnp.int32(depth)), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(puppet(image, kernels[:depth], depth), expected, rtol=1e-4, atol=1e-5)


def test_layers_beyond_the_depth_have_no_influence_and_no_gradient(puppet, kernels, image):
    loss = jax.jit(lambda kernels: (puppet(image, kernels, jnp.int32(2)) ** 2).sum())
    huge = (*kernels[:2], *(k * 1e6 for k in kernels[2:]))
    np.testing.assert_array_equal(loss(kernels), loss(huge))
    gradients = jax.grad(loss)(huge)
    assert all(float(jnp.abs(g).max()) > 0 for g in gradients[:2])
    assert all(float(jnp.abs(g).max()) == 0 for g in gradients[2:])


def test_batch_of_kernels_and_depths_is_a_loop(puppet, rng):
    images = jnp.asarray(rng.random((4, 8, 8, 2)), jnp.float32)
    kernels = tuple(jnp.asarray(rng.standard_normal((4, *s)), jnp.float32) for s in puppet.kernel_shapes)
    depths = jnp.array([5, 1, 3, 2], jnp.int32)
    batch = jax.jit(jax.vmap(puppet))(images, kernels, depths)
    for i in range(4):
        one = puppet(images[i], tuple(k[i] for k in kernels), int(depths[i]))
        np.testing.assert_allclose(batch[i], one, rtol=1e-4, atol=1e-5)


def test_bfloat16_computes_near_float32(puppet, kernels, image):
    half = pj.PlainPuppet(LAYERS, in_channels=2, num_classes=3, norm_groups=2, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    nnx.update(half, nnx.state(puppet))
    expected, found = puppet(image, kernels, jnp.int32(5)), half(image, kernels, jnp.int32(5))
    assert found.dtype == jnp.float32
    assert float(jnp.abs(found - expected).max()) < 0.05 * float(jnp.abs(expected).max())


def test_smallest_image(puppet, kernels):
    assert least_size(LAYERS) == 8
    assert np.isfinite(puppet(jnp.zeros((8, 8, 2)), kernels, jnp.int32(5))).all()
    with pytest.raises(ValueError, match=r"7×9 pixels is smaller than .* allow, 8×8"):
        puppet(jnp.zeros((7, 9, 2)), kernels, jnp.int32(5))


@pytest.mark.usefixtures("no_type_checker")
def test_bad_input_is_refused(puppet, kernels, image):
    with pytest.raises(ValueError, match="in_channels=3"):
        puppet(jnp.zeros((8, 8, 3)), kernels, jnp.int32(5))
    with pytest.raises(ValueError, match=r"depth must lie in 1\.\.5, got 6"):
        puppet(image, kernels, 6)
    with pytest.raises(ValueError, match="kernels must have shapes"):
        puppet(image, kernels[:3], jnp.int32(2))
    with pytest.raises(ValueError, match="D_max >= 1"):
        pj.PlainPuppet((), in_channels=1, num_classes=2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="num_classes"):
        pj.PlainPuppet(LAYERS, in_channels=1, num_classes=0, rngs=nnx.Rngs(0))
    for options in ({"width": 0}, {"width": 4, "stride": 0}, {"width": 4, "pool_kind": "sum"}, {"width": 2.5}):
        with pytest.raises(ValueError, match="LayerSpec"):
            pj.LayerSpec(**options)
