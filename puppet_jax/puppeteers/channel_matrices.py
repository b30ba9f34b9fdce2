"""The C_out × C_in matrices that a continuous kernel is a sum of, and what is stored of them."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from puppet_jax.puppeteers.pooling import adaptive_average

Channels = Literal["basis", "low_rank"]


class ChannelMatrices(nnx.Module):
    """``count`` matrices (C_out, C_in), their entries of standard deviation ``scale`` at first.

    ``"basis"``: the matrices themselves, count·C_out·C_in numbers. ``"low_rank"``: each a product of two factors of
    rank ``rank``, count·rank·(C_out + C_in).
    """

    def __init__(
        self, kind: Channels, count: int, c_out: int, c_in: int, *, scale: float, rank: int = 1, rngs: nnx.Rngs
    ):
        self.kind, self.count, self.rank, self.c_out, self.c_in = kind, count, rank, c_out, c_in
        normal = lambda *shape: jax.random.normal(rngs.params(), shape, jnp.float32)  # noqa: E731
        if kind == "basis":
            self.matrices = nnx.Param(scale * normal(count, c_out, c_in))
        else:
            each = math.sqrt(scale / math.sqrt(rank))
            self.factor_out = nnx.Param(each * normal(count, c_out, rank))
            self.factor_in = nnx.Param(each * normal(count, rank, c_in))

    def __call__(self, c_out: int, c_in: int) -> Float[Array, "count c_out c_in"]:
        """The matrices, averaged down to these channels; of products the factors are, which comes to the same."""
        if self.kind == "basis":
            return adaptive_average(self.matrices[...], (self.count, c_out, c_in))
        left = adaptive_average(self.factor_out[...], (self.count, c_out, self.rank))
        return left @ adaptive_average(self.factor_in[...], (self.count, self.rank, c_in))

    def __str__(self) -> str:
        what = "matrices" if self.kind == "basis" else f"products of rank {self.rank}"
        return f"{self.count} {what}, {self.c_out}×{self.c_in}"
