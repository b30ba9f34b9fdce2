"""Puppeteer, the base class of all sources of kernels, and StoredPuppeteer, the simplest of them."""

import math
import operator
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key, Real

from puppet_jax._mesh import cond
from puppet_jax.puppeteers._kernels import Kernels, KernelShape, check_standardisable, standardise

_FEWEST_DRAWN = 4096


class Puppeteer(nnx.Module):
    """A source of kernels: it maps one image's complexity to one kernel for each layer.

    A puppeteer of your own derives from this class and defines ``__call__``, pure and differentiable in its
    parameters. It gives a kernel for every layer, those beyond an image's depth too; the puppet leaves them out.

    Attributes:
        kernel_shapes: (C_out, C_in, K_h, K_w) of each layer.
        conditioned: whether kernels depend on complexity. Where it is false one set serves all images.
        skips: whether :meth:`bank` leaves out each set that is not needed, on CPUs.
        sizes: what the puppeteer consists of, in words, a line for each group of layers.

    Args:
        kernel_shapes: (C_out, C_in, K_h, K_w) of each layer.

    Raises:
        ValueError: no shapes, or a malformed one.
    """

    kernel_shapes: tuple[KernelShape, ...]
    conditioned: bool = True
    skips: bool = False

    def __init__(self, kernel_shapes: Sequence[KernelShape]):
        name, shapes = type(self).__name__, tuple(tuple(map(operator.index, shape)) for shape in kernel_shapes)
        if not shapes:
            raise ValueError(f"{name}: kernel_shapes is empty; a puppet has one layer or more")
        for layer, shape in enumerate(shapes, start=1):
            if len(shape) != 4 or min(shape) < 1:
                raise ValueError(
                    f"{name}: kernel_shapes of layer {layer} must be (C_out, C_in, K_h, K_w), all positive, got {shape}"
                )
        self.kernel_shapes = cast(tuple[KernelShape, ...], shapes)

    def __call__(self, h: Real[ArrayLike, ""]) -> Kernels:
        """Make the kernels of one image; those of several are ``jax.vmap(puppeteer)(h)``.

        Args:
            h: its complexity, a scalar >= 0.

        Returns:
            One float32 kernel (C_out, C_in, K_h, K_w) a layer.

        Raises:
            ValueError: ``h`` is not a scalar.
        """
        raise NotImplementedError(f"{type(self).__name__} must define __call__(self, h), which returns the kernels")

    def bank(self, complexities: Float[Array, " sets"], needed: Int[Array, ""] | None = None) -> tuple[Any, ...]:
        """Make the kernels of images of these complexities: (S, K_h, K_w, C_in, C_out) of each layer, or their factors,
        a :class:`~puppet_jax.convolution.FactoredBank`. A subclass may have a faster way than ``vmap``.

        Where only the first ``needed`` sets are asked for, the others may be anything finite: here the second half is
        zeros if none of it is. There is no loop over smaller parts: its gradient would store, for every part, all that
        the generation of one needs.
        """
        half = -(-len(complexities) // 2)

        def make(complexities):
            return tuple(jnp.transpose(kernel, (0, 3, 4, 2, 1)) for kernel in jax.vmap(self)(complexities))

        if needed is None or half == len(complexities):
            return make(complexities)
        first, rest = make(complexities[:half]), complexities[half:]

        def zeros(rest):
            return tuple(jnp.zeros_like(kernels[: len(rest)]) for kernels in first)

        second = cond(needed > half, make, zeros, rest)
        return tuple(jnp.concatenate(both) for both in zip(first, second, strict=True))

    @property
    def sizes(self) -> tuple[str, ...]:
        return ()

    def _scalar(self, h: Real[ArrayLike, ""]) -> Float[Array, ""]:
        """Return ``h`` in float32, or raise ``ValueError`` with the way to evaluate a batch."""
        h = jnp.asarray(h, jnp.float32)
        if h.ndim != 0:
            raise ValueError(
                f"{type(self).__name__}: h is the complexity of one image, a scalar, got shape {h.shape}; "
                "for a batch use jax.vmap(puppeteer)(h)"
            )
        return h


class StoredPuppeteer(Puppeteer):
    """Kernels stored as parameters, whatever the image: the static twin of any other puppeteer, for the same puppet.

    Args:
        kernel_shapes: (C_out, C_in, K_h, K_w) of each layer.
        standardise: standardise each kernel before use (see :func:`standardise`).
        rngs: Flax random streams; ``params`` is used. Initialised by He et al. 2015, variance 2 / fan_in.

    Raises:
        ValueError: an empty or malformed ``kernel_shapes``.
    """

    conditioned = False

    def __init__(self, kernel_shapes: Sequence[KernelShape], *, standardise: bool = True, rngs: nnx.Rngs):
        super().__init__(kernel_shapes)
        if standardise:
            check_standardisable(self.kernel_shapes, "StoredPuppeteer")
        self.standardise = standardise
        he = [(shape, math.sqrt(2.0 / math.prod(shape[1:]))) for shape in self.kernel_shapes]
        self.kernels = nnx.List([nnx.Param(of_deviation(rngs.params(), shape, scale)) for shape, scale in he])

    def __call__(self, h: Real[ArrayLike, ""]) -> Kernels:
        """Return the stored kernels; ``h`` is checked and not used."""
        self._scalar(h)
        kernels = tuple(jnp.asarray(kernel[...]) for kernel in self.kernels)
        return tuple(standardise(k) for k in kernels) if self.standardise else kernels


def uniform(key: Key[Array, ""], shape: tuple[int, ...], bound: ArrayLike) -> Float[Array, "..."]:
    """Draw independent float32 numbers between −``bound`` and ``bound``, which may be an array that broadcasts.

    XLA takes up to two seconds to compile a draw, for each shape anew: a minute for a puppet of fifty different kernel
    shapes. So sizes are rounded up to a power of four, of which there are few, and what is not needed is left out.
    """
    count, size = math.prod(shape), _FEWEST_DRAWN
    while size < count:
        size *= 4
    drawn = jax.random.uniform(key, (size,), jnp.float32, minval=-1.0, maxval=1.0)
    if isinstance(drawn, jax.core.Tracer):
        return jnp.asarray(bound, jnp.float32) * drawn[:count].reshape(shape)
    # In NumPy, the same numbers: these operations too would be compiled for every shape.
    return jax.device_put(np.asarray(bound, np.float32) * np.asarray(drawn)[:count].reshape(shape))


def of_deviation(key: Key[Array, ""], shape: tuple[int, ...], deviation: float) -> Float[Array, "..."]:
    """Draw independent uniform numbers of mean 0 and this standard deviation."""
    return uniform(key, shape, math.sqrt(3.0) * deviation)


def parameter(rngs: nnx.Rngs, deviation: float, *shape: int) -> nnx.Param:
    """Make a parameter of this shape, its numbers of mean 0 and this standard deviation."""
    return nnx.Param(of_deviation(rngs.params(), shape, deviation))
