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
        exits: depths that an image may leave at, which training teaches all of; ``None``: that which its complexity
            says, of all.
        in_one_pass: whether all exits' logits come from one pass, so that an image can go on from an exit.
        num_classes: number of logits; ``None`` for a puppet that returns something else, any tree of arrays.
    """

    kernel_shapes: tuple[KernelShape, ...]
    levels: tuple[int, ...]
    max_depth: int
    exits: tuple[int, ...] | None = None
    in_one_pass: bool = False
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

    def at_exits(self, *batch: Any, draw: Int[Array, ""] | None = None) -> Float[Array, "b exits num_classes"]:
        """Return the logits of :meth:`batch`, whose arguments these are, at each of ``self.depths``, as far as an
        image's own.

        The default is a pass for each; with ``draw`` for the least, the greatest and one between that it chooses (the
        sandwich rule; Yu and Huang 2019, arXiv:1903.05134).
        """
        ends: tuple[Any, ...] = self.depths
        if draw is not None and len(ends) > 3:
            ends = ends[0], jnp.asarray(ends)[1 + draw % (len(ends) - 2)], ends[-1]
        images, indices, bank, depths, *rest = batch
        each = (self.batch(images, indices, bank, jnp.minimum(depths, end), *rest) for end in ends)
        return jnp.stack(list(each), axis=1)

    def leaving(
        self, *batch: Any, confidence: Float[Array, ""]
    ) -> tuple[Float[Array, "b num_classes"], Int[Array, " b"]]:
        """Return the logits of :meth:`batch`, each image leaving at the first exit whose largest probability reaches
        ``confidence``, at its own depth at the latest; and the depth that it left at.

        Raises:
            ValueError: images cannot go on from an exit, which is the default.
        """
        raise ValueError(
            f"{type(self).__name__}: an image cannot go on from an exit, so that none can leave by confidence; choose "
            "a depth for all"
        )

    @property
    def depths(self) -> tuple[int, ...]:
        """All that an image may leave at, ascending."""
        return self.exits or tuple(range(1, self.max_depth + 1))

    def leave_at(self, exits: Sequence[int] | None) -> None:
        """Set ``exits``, ``max_depth`` among them; none if there are none.

        Raises:
            ValueError: one that is no depth.
        """
        wrong = [each for each in exits or () if not 1 <= each <= self.max_depth]
        if wrong:
            raise ValueError(f"exits: must lie in 1..{self.max_depth}, got {wrong[0]}")
        self.exits = tuple(sorted({*map(int, exits), self.max_depth})) if exits else None

    def cut(self, depth: int) -> None:
        """Leave out what only greater depths need. The default leaves all."""

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
