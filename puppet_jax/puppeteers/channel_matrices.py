"""The C_out × C_in matrices that a continuous kernel is a sum of, and what is stored of them."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

Channels = Literal["basis", "low_rank", "coordinates", "mixed"]


class ChannelMatrices(nnx.Module):
    """``count`` matrices (C_out, C_in), their entries of standard deviation ``scale`` at first.

    ``"basis"``: the matrices themselves, count·C_out·C_in numbers. ``"low_rank"``: each a product of two factors of
    rank ``rank``, count·rank·(C_out + C_in). ``"coordinates"``: every channel has count / 2 learned phases u, v, and
    the matrices are their cosines cos(u + v) and sines sin(u + v), of rank two each, for (C_out + C_in)·count / 2
    numbers: what channel coordinates come to that enter the last layer of a sine network by addition. ``"mixed"``:
    fixed random matrices, drawn from ``seed`` and not stored, between two learned mixings of channels, for C_out² +
    C_in² numbers.

    Raises:
        ValueError: ``"coordinates"`` with an odd count.
    """

    def __init__(
        self,
        kind: Channels,
        count: int,
        c_out: int,
        c_in: int,
        *,
        scale: float,
        rank: int = 1,
        seed: int = 0,
        rngs: nnx.Rngs,
    ):
        self.kind = kind
        self.shape = (count, c_out, c_in)
        self.scale = scale
        self.seed = seed
        normal = lambda *shape: jax.random.normal(rngs.params(), shape)  # noqa: E731
        if kind == "basis":
            self.matrices = nnx.Param(scale * normal(count, c_out, c_in))
        elif kind == "low_rank":
            each = math.sqrt(scale / math.sqrt(rank))
            self.factor_out = nnx.Param(each * normal(count, c_out, rank))
            self.factor_in = nnx.Param(each * normal(count, rank, c_in))
        elif kind == "coordinates":
            if count % 2:
                raise ValueError(f'basis must be even with channels="coordinates" (cosines and sines), got {count}')
            phases = lambda *shape: jax.random.uniform(rngs.params(), shape, maxval=2 * math.pi)  # noqa: E731
            self.phase_out = nnx.Param(phases(count // 2, c_out))
            self.phase_in = nnx.Param(phases(count // 2, c_in))
        else:
            self.mixing_out = nnx.Param(math.sqrt(scale / c_out) * normal(c_out, c_out))
            self.mixing_in = nnx.Param(math.sqrt(scale / c_in) * normal(c_in, c_in))

    def __call__(self) -> Float[Array, "count c_out c_in"]:
        if self.kind == "basis":
            return self.matrices[...]
        if self.kind == "low_rank":
            return self.factor_out[...] @ self.factor_in[...]
        if self.kind == "coordinates":
            angle = self.phase_out[...][:, :, None] + self.phase_in[...][:, None, :]
            return math.sqrt(2.0) * self.scale * jnp.concatenate([jnp.cos(angle), jnp.sin(angle)])
        fixed = jax.random.normal(jax.random.key(self.seed), self.shape)
        return jnp.einsum("po,boi,iq->bpq", self.mixing_out[...], fixed, self.mixing_in[...])
