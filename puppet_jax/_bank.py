"""A bank of kernels: one set for each complexity, made by one evaluation; an image chooses its own by an index.

A kernel depends on the image through its complexity alone. Where complexity is measured to a bin (:class:`Measure`),
all images of a bin share their kernels and their depth: a Puppet-CNN is then a small family of static CNNs that one
puppeteer writes, and nothing has to be generated for an image.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from puppet_jax.convolution import FactoredBank
from puppet_jax.puppeteers import Puppeteer


class Bank(NamedTuple):
    """Kernels of each layer, (S, K, K, C_in, C_out), the order of axes that the convolution reads, or their factors.

    Attributes:
        kernels: one array or :class:`FactoredBank` a layer.
        firsts: for each layer, the number of its first set: a layer that only deep images use has none for lesser
            complexities. ``None``: kernels do not depend on complexity, and one set serves every image.
    """

    kernels: tuple[Float[Array, "_ _ _ _ _"] | FactoredBank, ...]
    firsts: tuple[int | Int[Array, ""], ...] | None

    def indices(self, sets: Int[Array, " b"]) -> tuple[Int[Array, " b"], ...]:
        """Where in each layer's kernels an image of set ``sets`` finds its own; −1 where there is none."""
        if self.firsts is None:
            return (jnp.minimum(sets, 0),) * len(self.kernels)
        places = [(sets - first, len(each)) for each, first in zip(self.kernels, self.firsts, strict=True)]
        return tuple(jnp.where((place >= 0) & (place < count), place, -1) for place, count in places)

    def holds(self, sets: Int[Array, " b"]) -> Bool[Array, " b"]:
        """Whether there are kernels for an image of set ``sets``, in all layers that it uses."""
        return jnp.max(jnp.stack(self.indices(sets)), axis=0) >= 0

    def without(self, skipped: tuple[int, ...]) -> "Bank":
        """The same bank without the first ``skipped`` sets of each layer."""
        if self.firsts is None:
            return self
        kernels = tuple(each[skip:] for each, skip in zip(self.kernels, skipped, strict=True))
        return Bank(kernels, tuple(first + skip for first, skip in zip(self.firsts, skipped, strict=True)))


def make_bank(puppeteer: Puppeteer, complexities: Float[Array, " sets"], first: int = 0) -> Bank:
    """Make the kernels for these complexities, or a single set where they do not depend on them.

    ``first`` is the number of the first set.
    """
    if not puppeteer.conditioned:
        return Bank(puppeteer.bank(complexities[:1]), None)
    kernels = puppeteer.bank(complexities)
    return Bank(kernels, (first,) * len(kernels))
