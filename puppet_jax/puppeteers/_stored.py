"""StoredPuppeteer: one stored kernel a layer, whatever the image. The static CNN as a special case of the puppet."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Real

from puppet_jax.puppeteers._base import Kernels, KernelShape, check_complexity, check_kernel_shapes
from puppet_jax.puppeteers._initialisation import of_deviation
from puppet_jax.puppeteers._standardise import check_standardisable, standardise


class StoredPuppeteer(nnx.Module):
    """Kernels stored as parameters: the static twin of any other puppeteer, for the very same puppet.

    Args:
        kernel_shapes: (C_out, C_in, K, K) of each layer.
        standardise: standardise each kernel before use (see :func:`standardise`).
        rngs: Flax random streams; ``params`` is used. Initialised by He et al. 2015, variance 2 / fan_in.

    Raises:
        ValueError: an empty or malformed ``kernel_shapes``.
    """

    def __init__(self, kernel_shapes: Sequence[KernelShape], *, standardise: bool = True, rngs: nnx.Rngs):
        self.kernel_shapes = check_kernel_shapes(kernel_shapes, "StoredPuppeteer")
        if standardise:
            check_standardisable(self.kernel_shapes, "StoredPuppeteer")
        self.standardise = standardise
        self.conditioned = False
        he = [(shape, math.sqrt(2.0 / math.prod(shape[1:]))) for shape in self.kernel_shapes]
        self.kernels = nnx.List([nnx.Param(of_deviation(rngs.params(), shape, scale)) for shape, scale in he])

    def __call__(self, h: Real[ArrayLike, ""]) -> Kernels:
        """The stored kernels; ``h`` is checked and not used."""
        check_complexity(h, "StoredPuppeteer")
        kernels = tuple(jnp.asarray(kernel[...]) for kernel in self.kernels)
        return tuple(standardise(k) for k in kernels) if self.standardise else kernels
