"""The protocol every source of kernels keeps: ``puppeteer(h) -> kernels``."""

from collections.abc import Sequence
from typing import Protocol, cast, runtime_checkable

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

KernelShape = tuple[int, int, int, int]
"""(C_out, C_in, K, K) of one layer's kernel."""

Kernels = tuple[Float[Array, "_ _ _ _"], ...]
"""One kernel (C_out, C_in, K, K) a layer, from the first layer to the last; each layer has widths of its own."""


@runtime_checkable
class Puppeteer(Protocol):
    """A source of kernels for one image.

    ``puppeteer(h)`` takes one image's complexity, a scalar, and returns one kernel for each of ``kernel_shapes``,
    layers beyond the image's depth included (the puppet masks them). It is pure and differentiable in its
    parameters; a batch is ``jax.vmap(puppeteer)(h)``. One whose kernels are the same for every image may say so with an
    attribute ``conditioned = False``: a single set is then generated.
    """

    kernel_shapes: tuple[KernelShape, ...]

    def __call__(self, h: Real[ArrayLike, ""]) -> Kernels: ...


def check_kernel_shapes(kernel_shapes: Sequence[KernelShape], caller: str) -> tuple[KernelShape, ...]:
    """Return the shapes as plain tuples, or raise ``ValueError`` naming the layer that is wrong."""
    shapes = tuple(tuple(int(n) for n in shape) for shape in kernel_shapes)
    if not shapes:
        raise ValueError(f"{caller}: kernel_shapes is empty; a puppet has one layer or more")
    for layer, shape in enumerate(shapes, start=1):
        if len(shape) != 4 or min(shape) < 1 or shape[2] != shape[3]:
            raise ValueError(
                f"{caller}: kernel_shapes of layer {layer} must be (C_out, C_in, K, K), all positive, got {shape}"
            )
    return cast(tuple[KernelShape, ...], shapes)


def check_complexity(h: Real[ArrayLike, ""], caller: str) -> Float[Array, ""]:
    """Return ``h`` as a float32 scalar, or raise ``ValueError`` with the way to evaluate a batch."""
    h = jnp.asarray(h, jnp.float32)
    if h.ndim != 0:
        raise ValueError(
            f"{caller}: h is the complexity of one image, a scalar, got shape {h.shape}; "
            "for a batch use jax.vmap(puppeteer)(h)"
        )
    return h
