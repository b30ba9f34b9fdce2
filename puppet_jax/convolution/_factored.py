"""Kernels that are sums of R products of factors, and their convolution without forming them.

Low-rank continuous kernels are a canonical polyadic decomposition of all kernels together. Its convolution is three
thin ones: 1×1 to R channels, depthwise, 1×1 back. They take fewer multiplications than the kernel's own convolution
where R is small beside the channels, and of a kernel only what is small is an image's own.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from puppet_jax.convolution._lowerings import Geometry
from puppet_jax.convolution._primitives import depthwise_p, forward_p

CONVOLVED = "puppet_jax.convolved"
"""The name of results that are kept for a layer's gradient."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FactoredBank:
    """S kernels k[s, t, i, o] = Σ_r v[i, r] taps[s, t, r] u[s, r, o].

    Attributes:
        taps, factor_out: of each kernel.
        factor_in: v, of all kernels.
    """

    taps: Float[Array, "sets k_h k_w r"]
    factor_out: Float[Array, "sets r c_out"]
    factor_in: Float[Array, "c_in r"]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the kernels: (S, K_h, K_w, C_in, C_out)."""
        return *self.taps.shape[:3], self.factor_in.shape[0], self.factor_out.shape[2]

    def __len__(self) -> int:
        return len(self.taps)

    def __getitem__(self, chosen: slice) -> "FactoredBank":
        """Some of the kernels."""
        return FactoredBank(self.taps[chosen], self.factor_out[chosen], self.factor_in)

    def astype(self, dtype: DTypeLike) -> "FactoredBank":
        return jax.tree.map(lambda each: each.astype(dtype), self)

    def whole(self) -> Float[Array, "sets k_h k_w c_in c_out"]:
        """The kernels."""
        return jnp.einsum("ir,shwr,sro->shwio", self.factor_in, self.taps, self.factor_out)


def whole(kernels: tuple[Array | FactoredBank, ...]) -> tuple[Array, ...]:
    """Banks of kernels, those of factors made of them."""
    return tuple(each.whole() if isinstance(each, FactoredBank) else each for each in kernels)


def joined(first: Array | FactoredBank, second: Array | FactoredBank) -> Array | FactoredBank:
    """The kernels of one bank, then those of another, of the same factors if they have any."""
    if isinstance(first, FactoredBank) and isinstance(second, FactoredBank):
        taps = jnp.concatenate([first.taps, second.taps])
        return FactoredBank(taps, jnp.concatenate([first.factor_out, second.factor_out]), first.factor_in)
    assert not isinstance(first, FactoredBank)
    assert not isinstance(second, FactoredBank)
    return jnp.concatenate([first, second])


def convolve_factored(
    image: Float[Array, "h w c_in"], index: Int[Array, ""], bank: FactoredBank, geometry: Geometry, lowering: str | None
) -> Float[Array, "h_out w_out c_out"]:
    """The image's convolution with kernel ``index`` of the bank; zeros for −1."""
    dtype = jnp.promote_types(image.dtype, bank.taps.dtype)
    image, bank, index = image.astype(dtype)[None], bank.astype(dtype), index[None]

    def by_pixel(x, index, factors):
        geometry = Geometry(x.shape[1:3], (1, 1), (1, 1), ((0, 0), (0, 0)))
        static = {"geometry": geometry, "sets": len(factors), "lowering": lowering}
        return forward_p.bind(x, index, factors[:, None, None], **static)

    wide = checkpoint_name(by_pixel(image, jnp.minimum(index, 0), bank.factor_in[None]), CONVOLVED)
    moved = depthwise_p.bind(wide, index, bank.taps, geometry=geometry, sets=len(bank), lowering=lowering)
    return by_pixel(checkpoint_name(moved, CONVOLVED), index, bank.factor_out)[0]
