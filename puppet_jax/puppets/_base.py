"""Puppet: the base class of CNNs that take their kernels from outside, for one image and for a batch."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from puppet_jax.convolution import FactoredBank
from puppet_jax.puppeteers._base import Kernels, KernelShape


class Puppet(nnx.Module):
    """A CNN whose convolution kernels come from outside: the base class of all puppets.

    A subclass sets the attributes and writes ``__call__`` and ``batch``; the other methods have defaults.

    Attributes:
        kernel_shapes: (C_out, C_in, K_h, K_w) of each kernel, in the order in which they are used.
        levels: the least depth D that uses each of them; the least level is 1.
        max_depth: the greatest depth.
        num_classes: number of logits; ``None`` for a puppet that returns something else, any tree of arrays.
    """

    kernel_shapes: tuple[KernelShape, ...]
    levels: tuple[int, ...]
    max_depth: int
    num_classes: int | None

    def __call__(self, image: Float[Array, "h w c"], kernels: Kernels, depth: Int[Array, ""] | int) -> Any:
        """Return the logits of one image with its own kernels; layers beyond its depth do not reach them."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(image, kernels, depth)")

    def batch(
        self,
        images: Float[Array, "b h w c"],
        indices: tuple[Int[Array, " b"], ...],
        bank: tuple[Float[Array, "_ _ _ _ _"] | FactoredBank, ...],
        depths: Int[Array, " b"],
        samples: Int[Array, " b"],
        lowering: str | None = None,
    ) -> Any:
        """Return the logits of images that choose their kernels from a bank.

        Layers beyond the deepest image are not computed.

        Args:
            images: float in [0, 1].
            indices: each layer's choice of a kernel for every image.
            bank: each layer's kernels, (S, K_h, K_w, C_in, C_out), or their factors: an image's own is a
                :class:`~puppet_jax.convolution.Choice`.
            depths: D; an image of depth 0 only fills up the batch.
            samples: the images' numbers, which random streams are made from.
            lowering: of the convolutions, see :func:`~puppet_jax.convolution.convolve`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define batch(images, indices, bank, depths, samples, lowering)"
        )

    def check(self, image_shape: tuple[int, ...], shapes: Sequence[tuple[int, ...]], last: int) -> None:
        """Raise ``ValueError`` if an image or kernels of these shapes cannot go through to depth ``last``.

        The default accepts all.
        """

    def advance(self) -> None:
        """Move random streams on by one call, in training mode. The default does nothing: there are none."""

    def compute_in(self, dtype: DTypeLike) -> None:
        """Set the type that convolutions are computed in.

        Raises:
            ValueError: the puppet's own author chose it, which is the default.
        """
        raise ValueError(f"{type(self).__name__} computes in a type of its own, got dtype {jnp.dtype(dtype)}; omit it")

    def normalisation_count(self) -> int:
        """Count the stored parameters of normalisation layers. The default is 0."""
        return 0
