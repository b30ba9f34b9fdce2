"""The C_out × C_in matrices that a continuous kernel is a sum of, and what is stored of them."""

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from puppet_jax.puppeteers._initialisation import of_deviation
from puppet_jax.puppeteers._pooling import adaptive_average


class ChannelMatrices(nnx.Module):
    """``count`` matrices (C_out, C_in), their entries of standard deviation ``scale`` at first.

    Each is a product of two factors of rank ``rank``: count·rank·(C_out + C_in) numbers. ``None``: the matrices
    themselves, count·C_out·C_in.
    """

    def __init__(self, count: int, c_out: int, c_in: int, *, rank: int | None, scale: float, rngs: nnx.Rngs):
        self.count, self.rank, self.c_out, self.c_in = count, rank, c_out, c_in
        draw = lambda deviation, *shape: nnx.Param(of_deviation(rngs.params(), shape, deviation))  # noqa: E731
        if rank is None:
            self.matrices = draw(scale, count, c_out, c_in)
        else:
            each = math.sqrt(scale / math.sqrt(rank))
            self.factor_out = draw(each, count, c_out, rank)
            self.factor_in = draw(each, count, rank, c_in)

    def __call__(self, c_out: int, c_in: int) -> Float[Array, "count c_out c_in"]:
        """The matrices, averaged down to these channels; of products the factors are, which comes to the same."""
        if self.rank is None:
            return adaptive_average(self.matrices[...], (self.count, c_out, c_in))
        left, right = self._averaged(c_out, c_in)
        return left @ right

    def factors(self, c_out: int, c_in: int) -> tuple[Float[Array, "c_in r"], Float[Array, "r c_out"]]:
        """Of products, averaged down to these channels: their columns, R = count·rank, side by side."""
        left, right = self._averaged(c_out, c_in)
        return jnp.moveaxis(right, 2, 0).reshape(c_in, -1), jnp.swapaxes(left, 1, 2).reshape(-1, c_out)

    def _averaged(
        self, c_out: int, c_in: int
    ) -> tuple[Float[Array, "count c_out rank"], Float[Array, "count rank c_in"]]:
        assert self.rank is not None
        left = adaptive_average(self.factor_out[...], (self.count, c_out, self.rank))
        return left, adaptive_average(self.factor_in[...], (self.count, self.rank, c_in))

    def __str__(self) -> str:
        what = "matrices" if self.rank is None else f"products of rank {self.rank}"
        return f"{self.count} {what}, {self.c_out}×{self.c_in}"
