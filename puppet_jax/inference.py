"""Inference without generation: kernels baked at nodes in H, and work in proportion to the depths of a batch."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Int, Num

from puppet_jax.chunks import convolution_tables, default_chunk, logits_in_chunks
from puppet_jax.images import check_images
from puppet_jax.measure import Measure
from puppet_jax.model import PuppetCNN, used_from
from puppet_jax.puppeteers import InterpolatedPuppeteer, interpolate
from puppet_jax.puppeteers.interpolate import FULL_RANGE, Grid
from puppet_jax.puppets import ForeignPuppet, Puppet

_LARGEST_BATCH = 1024


class Prediction(NamedTuple):
    """What :func:`compile_predict`'s function returns, one row for each image, in the order given.

    Attributes:
        logits: float32, (B, num_classes).
        complexity: float32, (B,), bits.
        depth: int32, (B,), D: the number of layers that each image went through, in a plain puppet.
    """

    logits: Float[Array, "*batch num_classes"]
    complexity: Float[Array, "*batch"]
    depth: Int[Array, "*batch"]


class Predictor:
    """images → :class:`Prediction`; made by :func:`compile_predict`.

    Batches are filled up to the next power of two, so that few programs serve all sizes, and cut beyond 1,024. Filling
    costs next to nothing: such rows have depth 0. An image's answer does not depend on the others of its batch.

    Attributes:
        grid: the nodes that the kernels were baked at. ``grid.clamped(prediction.complexity)`` tells which images lie
            outside its interval.
        tables: of each layer, the kernels at its nodes, (M_l, K, K, C_in, C_out): the order the convolution reads.
        puppeteer: what generated them.
        puppet, measurement: the CNN that the kernels drive, and how images are measured.
    """

    def __init__(
        self,
        puppet: Puppet,
        interpolated: InterpolatedPuppeteer,
        measurement: Measure,
        chunk: int | None,
    ):
        self.grid = interpolated.grid
        self.puppeteer = interpolated
        self.tables = _bake(*nnx.split(interpolated))
        self._chunk = chunk
        self.puppet = puppet
        self.measurement = measurement

    def __call__(self, images: Num[ArrayLike, "*batch h w c"]) -> Prediction:
        """Predict one image (H, W, C) or a batch (B, H, W, C), uint8 or float in [0, 1]. Works under ``jit`` too.

        Raises:
            TypeError: the dtype is neither uint8 nor floating.
            ValueError: another rank, an empty batch, NaN or values outside [0, 1] (checked on concrete arrays), other
                channels than the model's, or an image smaller than its strides allow.
        """
        images = check_images(images, "predict")
        if images.ndim > 4:
            raise ValueError(f"predict: images must be (H, W, C) or (B, H, W, C), got shape {images.shape}")
        puppet = self.puppet
        puppet.check(images.shape[-3:], puppet.kernel_shapes, puppet.max_depth)
        if images.ndim == 3:
            return jax.tree.map(lambda x: x[0], self(images[None]))
        if isinstance(images, jax.core.Tracer):
            return self._run(images, len(images))
        parts = []
        for start in range(0, len(images), _LARGEST_BATCH):
            part = images[start : start + _LARGEST_BATCH]
            size = 1 << (len(part) - 1).bit_length()
            filled = jnp.pad(part, ((0, size - len(part)), (0, 0), (0, 0), (0, 0)))
            parts.append(self._run(filled, len(part)))
        if len(parts) == 1:
            return jax.tree.map(lambda rows: rows[: len(images)], parts[0])
        return jax.tree.map(lambda *rows: jnp.concatenate(rows)[: len(images)], *parts)

    def _run(self, images: Num[Array, "b h w c"], count: int) -> Prediction:
        chunk = self._chunk or default_chunk()
        graphdef, state = nnx.split(self.puppet)
        return _predict(graphdef, self.grid, self.measurement, chunk, state, self.tables, images, count)


def compile_predict(
    model: PuppetCNN,
    *,
    tolerance: float = 1e-5,
    interval: tuple[float, float] = FULL_RANGE,
    dtype: DTypeLike | None = None,
    chunk: int | None = None,
) -> Predictor:
    """Bake a trained model's kernels and return a jitted function images → :class:`Prediction`.

    Kernels are generated here, once, at nodes in H (:func:`interpolate`), never at inference: an image's kernels are
    then weighted sums of a few stored ones. Images are sorted by depth and taken in chunks, each of which stops at its
    own deepest image, so that work is proportional to the sum of depths.

    Args:
        model: the model; an :class:`InterpolatedPuppeteer` inside is used with its own nodes.
        tolerance: relative error of an interpolated kernel; see :func:`interpolate`.
        interval: complexities to cover; the default is all there are. Outside, h is clamped to it.
        dtype: compute type of the convolutions, ``None`` for the model's own; a puppetized model keeps its own.
        chunk: images that go through the layers together; ``None`` for the platform's own.

    Raises:
        TypeError: ``model`` is not a :class:`PuppetCNN`.
        ValueError: ``chunk`` < 1, a ``dtype`` for a puppetized model, or what :func:`interpolate` raises.
    """
    if not isinstance(model, PuppetCNN):
        raise TypeError(f"compile_predict: model must be a PuppetCNN, got {type(model).__name__}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"compile_predict: chunk must be at least 1, got {chunk}")
    model = nnx.clone(model)
    model.eval()
    foreign = isinstance(model.puppet, ForeignPuppet)
    if foreign and dtype is not None:
        raise ValueError(
            "compile_predict: a puppetized model computes in the types its author gave its layers; leave dtype out, "
            "and puppetize the model with dtype=... in its own nnx.Conv"
        )
    if dtype is not None:
        model.puppet.dtype = jnp.dtype(dtype)
    interpolated = model.puppeteer
    if not isinstance(interpolated, InterpolatedPuppeteer):
        levels = used_from(model.puppet, model.measurement)
        interpolated = interpolate(interpolated, interval=interval, tolerance=tolerance, levels=levels)
    return Predictor(model.puppet, interpolated, model.measurement, chunk)


@functools.partial(jax.jit, static_argnums=0)
def _bake(graphdef, state):
    return convolution_tables(nnx.merge(graphdef, state).tables())


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _predict(graphdef, grid: Grid, measurement: Measure, chunk: int, state, tables, images, count) -> Prediction:
    puppet = nnx.merge(graphdef, state)
    h, d = measurement(images, puppet.max_depth)
    layers = jnp.where(jnp.arange(len(images)) < count, d, 0)
    return Prediction(logits_in_chunks(puppet, grid, tables, images, h, layers, chunk), h, d)
