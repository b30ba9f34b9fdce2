"""The C_out × C_in matrices that a continuous kernel is a sum of, and what is stored of them."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

Channels = Literal["basis", "low_rank"]


class ChannelMatrices(nnx.Module):
    """``count`` matrices (C_out, C_in), their entries of standard deviation ``scale`` at first.

    ``"basis"``: the matrices themselves, count·C_out·C_in numbers. ``"low_rank"``: each a product of two factors of
    rank ``rank``, count·rank·(C_out + C_in).
    """

    def __init__(
        self, kind: Channels, count: int, c_out: int, c_in: int, *, scale: float, rank: int = 1, rngs: nnx.Rngs
    ):
        self.kind = kind
        normal = lambda *shape: jax.random.normal(rngs.params(), shape, jnp.float32)  # noqa: E731
        if kind == "basis":
            self.matrices = nnx.Param(scale * normal(count, c_out, c_in))
        else:
            each = math.sqrt(scale / math.sqrt(rank))
            self.factor_out = nnx.Param(each * normal(count, c_out, rank))
            self.factor_in = nnx.Param(each * normal(count, rank, c_in))

    def __call__(self) -> Float[Array, "count c_out c_in"]:
        return self.matrices[...] if self.kind == "basis" else self.factor_out[...] @ self.factor_in[...]
