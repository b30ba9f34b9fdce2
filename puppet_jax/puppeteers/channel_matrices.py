"""The C_out × C_in matrices that a continuous kernel is a sum of, and what is stored of them."""

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from puppet_jax.initialisation import of_deviation
from puppet_jax.puppeteers.pooling import adaptive_average


class ChannelMatrices(nnx.Module):
    """``count`` matrices (C_out, C_in), their entries of standard deviation ``scale`` at first.

    Each is a product of two factors of rank ``rank``: count·rank·(C_out + C_in) numbers. ``None``: the matrices
    themselves, count·C_out·C_in. An image's channels have nothing in common with a layer's: what the layer that reads
    them multiplies is stored besides, count·rank·``image`` numbers, or count·C_out·``image``; 0: there is no such layer.
    """

    def __init__(
        self, count: int, c_out: int, c_in: int, *, rank: int | None, scale: float, image: int = 0, rngs: nnx.Rngs
    ):
        self.count, self.rank, self.c_out, self.c_in = count, rank, c_out, c_in
        draw = lambda deviation, *shape: nnx.Param(of_deviation(rngs.params(), shape, deviation))  # noqa: E731
        each = scale if rank is None else math.sqrt(scale / math.sqrt(rank))
        if rank is None:
            self.matrices = draw(each, count, c_out, c_in)
        else:
            self.factor_out = draw(each, count, c_out, rank)
            self.factor_in = draw(each, count, rank, c_in)
        if image:
            self.of_image = draw(each, image, count * (rank or c_out))  # one matrix, for Muon and for scales of 8 bits

    def __call__(self, c_out: int, c_in: int, *, image: bool = False) -> Float[Array, "count c_out c_in"]:
        """The matrices, averaged down to these channels; of products the factors are, which comes to the same.

        ``image``: those of the layer that reads the image, whose ``c_in`` is not averaged.
        """
        own = jnp.moveaxis(self.of_image[...].reshape(c_in, self.count, -1), 0, 2) if image else None
        if self.rank is None:
            whole = self.matrices[...] if own is None else own
            return adaptive_average(whole, (self.count, c_out, c_in))
        right = self.factor_in[...] if own is None else own
        left = adaptive_average(self.factor_out[...], (self.count, c_out, self.rank))
        return left @ adaptive_average(right, (self.count, self.rank, c_in))

    def __str__(self) -> str:
        what = "matrices" if self.rank is None else f"products of rank {self.rank}"
        return f"{self.count} {what}, {self.c_out}×{self.c_in}"
