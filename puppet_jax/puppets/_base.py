"""The protocol every puppet keeps: a CNN that takes its kernels from outside, for one image and for a batch."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from puppet_jax.convolution._factored import FactoredBank
from puppet_jax.puppeteers._base import Kernels, KernelShape


@runtime_checkable
class Puppet(Protocol):
    """A CNN whose convolution kernels come from outside.

    Attributes:
        kernel_shapes: (C_out, C_in, K, K) of each kernel, in the order in which they are used.
        levels: the least depth D that uses each of them; the least level is 1.
        max_depth: the greatest depth.
        num_classes: number of logits; ``None`` for a puppet that returns something else, any tree of arrays.
    """

    kernel_shapes: tuple[KernelShape, ...]

    @property
    def num_classes(self) -> int | None: ...

    @property
    def max_depth(self) -> int: ...

    @property
    def levels(self) -> tuple[int, ...]: ...

    def __call__(self, image: Float[Array, "h w c"], kernels: Kernels, depth: Int[Array, ""] | int) -> Any:
        """Logits of one image with its own kernels; layers beyond its depth do not reach them."""
        ...

    def batch(
        self,
        images: Float[Array, "b h w c"],
        indices: tuple[Int[Array, " b"], ...],
        bank: tuple[Float[Array, "_ _ _ _ _"] | FactoredBank, ...],
        depths: Int[Array, " b"],
        samples: Int[Array, " b"],
        lowering: str | None = None,
    ) -> Any:
        """Logits of images that choose their kernels from a bank; layers beyond the deepest are not computed.

        Args:
            images: float in [0, 1].
            indices: each layer's choice of a kernel for every image.
            bank: each layer's kernels, (S, K, K, C_in, C_out), or their factors: an image's own is a
                :class:`~puppet_jax.convolution._convolve.Choice`.
            depths: D; an image of depth 0 only fills up the batch.
            samples: the images' numbers, which random streams are made from.
            lowering: of the convolutions, see :func:`~puppet_jax.convolution._convolve.convolve`.
        """
        ...

    def check(self, image_shape: tuple[int, ...], shapes: Sequence[tuple[int, ...]], last: int) -> None:
        """Raise ``ValueError`` if an image or kernels of these shapes cannot go through to depth ``last``."""
        ...

    def advance(self) -> None:
        """Move random streams on by one call, in training mode; a puppet without any does nothing."""
        ...

    def compute_in(self, dtype: DTypeLike) -> None:
        """Set the type that convolutions are computed in.

        Raises:
            ValueError: the puppet's own author chose it.
        """
        ...

    def normalisation_count(self) -> int:
        """Stored parameters of normalisation layers."""
        ...
