"""Inference without generation: a bank of kernels, and work in proportion to the depths of a batch."""

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Num

from puppet_jax._batch import Bank, default_chunk, logits_from_bank, logits_of_batch, make_bank, where_rows
from puppet_jax._integers import integer
from puppet_jax._measure import Measure
from puppet_jax._mesh import of_any_mesh
from puppet_jax._model import PuppetCNN
from puppet_jax._prediction import Prediction, TakesPictures
from puppet_jax.puppets import Puppet


class Predictor(TakesPictures):
    """A compiled model, made by :func:`compile_predict`: called with images, it returns a :class:`Prediction`.

    Batches are padded to the next power of two, so that few programs serve all sizes, and split beyond 1,024. Padding
    costs next to nothing: such rows have depth 0. An image's answer does not depend on the others of its batch.

    Attributes:
        puppet: the CNN.
        puppeteer: what generated its kernels.
        measurement: how images are measured.
        bank: the kernels; ``None`` where complexity is continuous and every image's are generated when it comes.
        complexities: (least, greatest) that the bank has kernels for.
        confidence: the largest probability with which an image leaves at an exit; ``None``: its depth is measured.
        classes: a name for each logit, or ``None``: the model's.
        image_shape: (H, W, C) that :meth:`predict_images` scales to, or ``None``: the model's.
    """

    _largest_batch = 1024

    def __init__(
        self,
        model: PuppetCNN,
        complexities: tuple[float, float] | None,
        chunk: int | None,
        confidence: float | int | None,
    ):
        self.puppet, self.puppeteer, self.measurement = model.puppet, model.puppeteer, model.measurement
        self.classes, self.image_shape = model.classes, model.image_shape
        self.confidence = confidence
        self.bank: Bank | None = None
        self.complexities: tuple[float, float] | None = None
        if self.measurement.bin is not None:
            self.bank, self.complexities = _bake(model, complexities)
        self._whole = complexities is None
        self._chunk = chunk or default_chunk()
        # Without a bank the puppeteer is a part of the program.
        self._parts = nnx.split((self.puppet, self.puppeteer if self.bank is None else None))

    def _check(self, images: Num[Array, "*batch h w c"]) -> None:
        self.puppet.check(images.shape[-3:], self.puppet.kernel_shapes, self.puppet.max_depth)

    def _run(self, images: Num[Array, "b h w c"], count: int) -> Prediction:
        run = functools.partial(_predict, self.measurement, self._chunk)
        fixed = count, self.confidence, *self._parts, self.bank
        logits, h, d = of_any_mesh(run, *fixed, images=images, batch_axes=1)
        return Prediction(logits, h, d, self.classes)

    @property
    def arrays(self) -> Any:
        """All arrays that prediction reads, as a pytree: to place on devices, or to hand to a jitted function."""
        return self._parts[1], self.bank

    def with_arrays(self, arrays: Any) -> "Predictor":
        """A copy of the predictor that reads these arrays, structured as :attr:`arrays`, in place of its own."""
        other = copy.copy(self)
        state, other.bank = arrays
        other._parts = self._parts[0], state
        return other


def compile_predict(
    model: PuppetCNN,
    *,
    depth: int | None = None,
    confidence: float | int | None = None,
    complexities: tuple[float, float] | None = None,
    dtype: DTypeLike | None = None,
    chunk: int | None = None,
) -> Predictor:
    """Bake a trained model's kernels and return a compiled function from images to :class:`Prediction`.

    Kernels are generated here, once, one set for each bin of complexity: exactly those that the model itself would
    generate. Images are sorted by depth and bin and taken in chunks, each of which stops at its own deepest image, so
    that work is proportional to the sum of depths. Of a model with continuous complexity (``Measure(bin=None)``) there
    is nothing to bake: its kernels are generated for every image.

    Each image goes as deep as the model measures, unless one of these says otherwise: a fixed budget, ``depth``; or
    ``confidence``, with which an image leaves as soon as the model is sure (BranchyNet; Teerapittayanon et al. 2016,
    arXiv:1709.01686). The model should have been trained with ``exits``.

    Args:
        model: the model; it is copied.
        depth: for every image, one of ``model.puppet.depths``; with ``confidence``, the greatest.
        confidence: in (0, 1]: an image leaves after the first exit whose largest probability reaches it.
        complexities: (least, greatest) to bake kernels for, in bits; ``None`` for all there can be. A data set's
            own range makes a smaller bank; images outside are refused.
        dtype: compute type of the convolutions, ``None`` for the model's own; a puppetized model keeps its own.
        chunk: how many images go through the layers together; ``None`` chooses by platform.

    Raises:
        TypeError: ``model`` is not a :class:`PuppetCNN`.
        ValueError: ``depth`` is no exit, a ``confidence`` outside of (0, 1] or for a puppet whose images cannot go on
            from an exit, ``chunk`` < 1, a ``dtype`` for a puppetized model, or ``complexities`` that are empty or given
            for continuous complexity.
    """
    if not isinstance(model, PuppetCNN):
        raise TypeError(f"compile_predict: model must be a PuppetCNN, got {type(model).__name__}")
    chunk = None if chunk is None else integer(chunk, "compile_predict: chunk")
    if complexities is not None and model.measurement.bin is None:
        raise ValueError(
            "compile_predict: complexities choose bins to bake kernels for, and this model measures without bins; "
            "leave them out, or create it with measurement=Measure(bin=0.25)"
        )
    if confidence is not None:
        _check_confidence(model, confidence)
    if depth is not None and depth not in model.puppet.depths:
        raise ValueError(f"compile_predict: depth must be one of {model.puppet.depths}, got {depth!r}")
    model = nnx.clone(model)
    model.eval()
    if depth is not None:
        model.measurement = dataclasses.replace(model.measurement, depth=depth)
        model.puppet.cut(depth)
    if dtype is not None:
        model.puppet.compute_in(dtype)
    return Predictor(model, complexities, chunk, confidence)


def _check_confidence(model: PuppetCNN, confidence: float | int) -> None:
    if not 0 < confidence <= 1:
        raise ValueError(f"compile_predict: confidence must be a probability in (0, 1], got {confidence!r}")
    if model.puppet.exits is None:
        raise ValueError("compile_predict: confidence is for a model that was trained with exits; create it with them")
    if not model.puppet.in_one_pass:
        raise ValueError(
            f"compile_predict: confidence: an image cannot go on from an exit of a {type(model.puppet).__name__}; give "
            f"a depth, one of {model.puppet.depths}"
        )


def _bake(model: PuppetCNN, complexities: tuple[float, float] | None) -> tuple[Bank, tuple[float, float]]:
    """Return kernels of the bins of these complexities, and the complexities that the bins cover.

    A layer's kernels of the shallowest bins are left out where no image in these is deep enough to use it.
    """
    measurement = model.measurement
    first, last = _bins(measurement, complexities)
    centres, half = measurement.centres[first : last + 1], measurement.width / 2
    depths = np.asarray(jax.jit(measurement.depth_of, static_argnums=1)(centres, model.puppet.depths))
    skipped = tuple(min(int((depths < level).sum()), len(depths) - 1) for level in model.puppet.levels)
    kernels = _kernels(jax.default_backend())(tuple(centres.tolist()), skipped, *nnx.split(model.puppeteer))
    firsts = tuple(first + skip for skip in skipped) if model.puppeteer.conditioned else None
    return Bank(kernels, firsts), (float(centres[0] - half), float(centres[-1] + half))


@functools.cache
def _kernels(platform: str) -> Callable[..., tuple[Array, ...]]:
    """A function, compiled once for all equal models, that makes kernels of these complexities, less those skipped."""
    # A program that runs once: with fewer optimisations it is compiled in a third of the time and as fast.
    options = {"xla_backend_optimization_level": 1} if platform == "cpu" else None

    def make(complexities, skipped, graphdef, state):
        bank = make_bank(nnx.merge(graphdef, state), jnp.asarray(complexities, jnp.float32))
        kernels = bank.kernels[: len(skipped)]  # of a puppet that was cut
        return Bank(kernels, bank.firsts and bank.firsts[: len(skipped)]).without(skipped).kernels

    return jax.jit(make, static_argnums=(0, 1), compiler_options=options)


def _bins(measurement: Measure, complexities: tuple[float, float] | None) -> tuple[int, int]:
    if complexities is None:
        return 0, len(measurement.centres) - 1
    low, high = (float(end) for end in complexities)
    if not 0 <= low <= high:
        raise ValueError(
            f"compile_predict: complexities must be (least, greatest) with 0 <= least <= greatest, got {complexities}"
        )
    first, last = measurement.index(jnp.asarray([low, high], jnp.float32))
    return int(first), int(last)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _predict(measurement: Measure, chunk: int, count, confidence, graphdef, state, bank: Bank | None, images):
    puppet, puppeteer = nnx.merge(graphdef, state)
    h, d = measurement(images, puppet.depths)
    d_or_padding = jnp.where(jnp.arange(len(images)) < count, d, 0)
    forward = answering(puppet, confidence)
    if bank is None:
        logits, left = logits_of_batch(forward, puppeteer, measurement, images, h, d_or_padding)
        return logits, h, left
    bins = measurement.index(h)
    held, padding = bank.holds(bins), d_or_padding == 0
    logits, left = logits_from_bank(forward, bank, images, bins, jnp.where(held, d_or_padding, 0), chunk)
    return where_rows(held | padding, logits, jnp.nan), h, jnp.where(held, left, d)


def answering(puppet: Puppet, confidence: Float[Array, ""] | float | None) -> Callable[..., Any]:
    """Return the puppet's function from a batch to logits and to the depths that its images left at."""
    if confidence is not None:
        return functools.partial(puppet.leaving, confidence=jnp.asarray(confidence, jnp.float32))

    def measured(images, indices, bank, depths, *rest):
        return puppet.batch(images, indices, bank, depths, *rest), depths

    return measured
