"""Small nets and images for the tests of the library: parameters drawn in NumPy, images of every depth."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import puppet_jax as pj

LEVELS = (2, 256, 1, 16, 4, 3, 256, 64, 2, 1)


def images_of(channels=2, levels=LEVELS):
    """8×8 images of that many grey levels: their depths cover 1 to 5, in no order."""
    rng = np.random.default_rng(3)
    each = [rng.integers(0, n, (8, 8, channels)) * (255 // max(n - 1, 1)) for n in levels]
    return jnp.asarray(np.stack(each), jnp.uint8)


def drawn(make, seed=1):
    """What ``make`` makes, its parameters drawn in NumPy, for JAX would compile a program for each shape. None is what
    it starts from, so that a forgotten one shows."""
    rng = np.random.default_rng(seed)

    def filled(path, leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(int(rng.integers(1000)))
        if leaf.dtype == jnp.uint32:  # calls that a random stream has counted
            return jnp.zeros(leaf.shape, leaf.dtype)
        names = jax.tree_util.keystr(path)
        if "scale" in names or "var" in names:
            return jnp.asarray(0.5 + rng.random(leaf.shape), leaf.dtype)
        if "kernels" in names:  # (C_out, C_in, K, K)
            fan_in = math.prod(leaf.shape[1:])
        else:
            fan_in = math.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 16
        return jnp.asarray(rng.standard_normal(leaf.shape) * math.sqrt(2 / fan_in), leaf.dtype)

    graphdef, state = nnx.split(nnx.eval_shape(make))
    return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(filled, state))


def brightness(images):
    """Somebody's own measure: from 0 to 8."""
    return 8 * jnp.mean(images.astype(jnp.float32), axis=(-3, -2, -1)) / 255


class Block(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(4, 4, (3, 3), rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return x + self.dropout(nnx.tanh(self.conv(x)))


class Net(nnx.Module):
    """Somebody else's: a strided convolution, a grouped one, and two blocks, one of which may be skipped."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(2, 4, (3, 3), strides=2, rngs=rngs)
        self.grouped = nnx.Conv(4, 4, (3, 3), feature_group_count=2, rngs=rngs)
        self.blocks = nnx.List([Block(rngs), Block(rngs)])
        self.norm = nnx.GroupNorm(4, num_groups=2, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.avg_pool(self.grouped(self.stem(x)), (2, 2), strides=(2, 2))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean((1, 2)))


LAYERS = (pj.LayerSpec(4, stride=2, pool=2), pj.LayerSpec(4))
PUPPETEERS = {
    "continuous": lambda shapes: pj.ContinuousPuppeteer(shapes, basis=4, hidden=6, rngs=nnx.Rngs(0)),
    "ode": lambda shapes: pj.OdePuppeteer(shapes, rank=1, rngs=nnx.Rngs(0)),
    "stored": lambda shapes: pj.StoredPuppeteer(shapes, rngs=nnx.Rngs(0)),
}


@functools.cache
def _model(puppet, puppeteer, dtype):
    def make():
        if puppet == "foreign":
            net = Net(nnx.Rngs(0))
            made = lambda shapes, rngs: PUPPETEERS[puppeteer](shapes)  # noqa: E731
            return pj.puppetize(net, made, image_shape=(8, 8, 2), rngs=nnx.Rngs(1))
        made = pj.PlainPuppet(LAYERS, in_channels=2, num_classes=3, norm_groups=2, rngs=nnx.Rngs(0))
        made.compute_in(dtype)
        return pj.PuppetCNN(PUPPETEERS[puppeteer](made.kernel_shapes), made)

    made = drawn(make)
    made.eval()
    return made


def model_of(puppet="plain", puppeteer="continuous", dtype=jnp.float32, **measurement):
    """Of 2×8×8 images and three classes, in evaluation mode; two layers, or somebody else's net."""
    made = _model(puppet, puppeteer, jnp.dtype(dtype))
    return pj.PuppetCNN(made.puppeteer, made.puppet, pj.Measure(**measurement))


@functools.cache
def _measuring(measurement, depths):
    return jax.jit(lambda images: measurement(images, depths))


def measured(model, images):
    """``model.measure``, as one program for all models that measure alike."""
    return tuple(map(np.asarray, _measuring(model.measurement, model.puppet.depths)(images)))


def one_by_one(model, images):
    """Logits by the definition: every image's own kernels, generated for it alone."""
    h, d = model.measure(images)
    unit = images / 255 if images.dtype == jnp.uint8 else images
    return jax.vmap(lambda image, h, d: model.puppet(image, model.puppeteer(h), d))(
        jnp.asarray(unit, jnp.float32), h, d
    )


def close(found, expected, tolerance=1e-4):
    """Whether two arrays, or trees of them, are the same to a part of the greatest of each."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape
        if not np.abs(a - b).max(initial=0) <= tolerance * np.abs(b).max(initial=0) + 1e-7:
            return False
    return True
