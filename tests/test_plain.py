import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx
from small import close, drawn

import puppet_jax as pj

LAYERS = (
    pj.LayerSpec(6, kernel_size=5),
    pj.LayerSpec(6, pool=2),
    pj.LayerSpec(8, stride=2),
    pj.LayerSpec(8, kernel_size=1),
    pj.LayerSpec(4, pool=3),
)


def made(**options):
    options = {"in_channels": 2, "num_classes": 3, "norm_groups": 2, **options}
    return drawn(lambda: pj.PlainPuppet(LAYERS, **options, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def puppet():
    return made()


@pytest.fixture
def kernels(puppet, rng):
    return tuple(jnp.asarray(rng.standard_normal(s) / np.sqrt(s[1]), jnp.float32) for s in puppet.kernel_shapes)


@pytest.fixture
def image(rng):
    return jnp.asarray(rng.random((15, 12, 2)), jnp.float32)


def numpy_puppet(puppet, image, kernels, depth, width=8):
    """The puppet's definition in float64 NumPy, cut off after ``depth`` layers."""
    x = (np.asarray(image, np.float64) - 0.5) * 4
    for index, spec in enumerate(puppet.layers[:depth]):
        y = reference.convolve(x, np.asarray(kernels[index], np.float64), spec.stride)
        y = reference.group_norm(y, puppet.norm_groups, puppet.norm_scale[index][...], puppet.norm_shift[index][...])
        y = np.maximum(y, 0)
        y = y + x if y.shape == x.shape else y
        x = reference.mean_pool(y, spec.pool)
    features = np.zeros(width)
    features[: x.shape[2]] = x.mean((0, 1))
    return features @ np.asarray(puppet.head[...]) + np.asarray(puppet.head_bias[...])


def test_masked_is_truly_cut_off(puppet, kernels, image):
    masked = jax.jit(lambda depth: puppet(image, kernels, depth))
    for depth in range(1, 6):
        assert close(masked(jnp.int32(depth)), numpy_puppet(puppet, image, kernels, depth))
    cut = jax.jit(lambda kernels: puppet(image, kernels, 3))(kernels[:3])
    assert close(cut, masked(jnp.int32(3)), 1e-5)
    half = jax.jit(lambda: made(dtype=jnp.bfloat16)(image, kernels, jnp.int32(5)))()
    assert half.dtype == jnp.float32
    assert close(half, masked(jnp.int32(5)), 0.05)


def test_layers_beyond_the_depth_have_no_influence_and_no_gradient(puppet, kernels, image):
    loss = jax.jit(lambda kernels: (puppet(image, kernels, jnp.int32(2)) ** 2).sum())
    huge = (*kernels[:2], *(k * 1e6 for k in kernels[2:]))
    np.testing.assert_array_equal(loss(kernels), loss(huge))
    gradients = jax.jit(jax.grad(loss))(huge)
    assert all(float(jnp.abs(g).max()) > 0 for g in gradients[:2])
    assert all(float(jnp.abs(g).max()) == 0 for g in gradients[2:])


@pytest.mark.usefixtures("no_type_checker")
def test_bad_input_is_refused(puppet, kernels, image):
    assert np.isfinite(jax.jit(puppet)(jnp.zeros((12, 12, 2)), kernels, jnp.int32(5))).all()
    with pytest.raises(ValueError, match=r"11×13 pixels is smaller than .* allow, 12×12"):
        puppet(jnp.zeros((11, 13, 2)), kernels, jnp.int32(5))
    with pytest.raises(ValueError, match="in_channels=3"):
        puppet(jnp.zeros((12, 12, 3)), kernels, jnp.int32(5))
    with pytest.raises(ValueError, match=r"depth must lie in 1\.\.5, got 6"):
        puppet(image, kernels, 6)
    with pytest.raises(ValueError, match="kernels must have shapes"):
        puppet(image, kernels[:3], jnp.int32(2))
    with pytest.raises(ValueError, match="D_max >= 1"):
        pj.PlainPuppet((), in_channels=1, num_classes=2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="num_classes"):
        pj.PlainPuppet(LAYERS, in_channels=1, num_classes=0, rngs=nnx.Rngs(0))
    for options in ({"width": 0}, {"width": 4, "stride": 0}, {"width": 2.5}):
        with pytest.raises(ValueError, match="LayerSpec"):
            pj.LayerSpec(**options)
