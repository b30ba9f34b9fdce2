"""An image chooses its kernel: the convolution that puppets call, and the layer made of it. Arguments are checked here.

All is written for one image; ``jax.vmap`` makes a batch of it. What happens then is the business of ``_primitives.py``.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from puppet_jax._integers import integer
from puppet_jax.convolution import native
from puppet_jax.convolution._lowerings import LOWERINGS, Geometry
from puppet_jax.convolution._primitives import CONVOLVED, EPSILON, depthwise_p, finish_p, forward_p, layer_p


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FactoredBank:
    """S kernels k[s, t, i, o] = Σ_r v[i, r] taps[s, t, r] u[s, r, o], sums of R products of factors.

    Low-rank continuous kernels are a canonical polyadic decomposition of all kernels together. The convolution with one
    of them is three thin ones: 1×1 to R channels, depthwise, 1×1 back. They take fewer multiplications than the
    kernel's own where R is small beside the channels, and of a kernel only what is small is an image's own.

    Attributes:
        taps, factor_out: of each kernel.
        factor_in: v, of all kernels.
    """

    taps: Float[Array, "sets k_h k_w r"]
    factor_out: Float[Array, "sets r c_out"]
    factor_in: Float[Array, "c_in r"]

    @property
    def shape(self) -> tuple[int, ...]:
        """(S, K_h, K_w, C_in, C_out) of the kernels."""
        return *self.taps.shape[:3], self.factor_in.shape[0], self.factor_out.shape[2]

    @property
    def ndim(self) -> int:
        """Five, as a bank of whole kernels has."""
        return len(self.shape)

    @property
    def dtype(self) -> jnp.dtype:
        """The factors' common type."""
        return self.taps.dtype

    def __len__(self) -> int:
        return len(self.taps)

    def __getitem__(self, chosen: slice) -> "FactoredBank":
        """Return some of the kernels."""
        return FactoredBank(self.taps[chosen], self.factor_out[chosen], self.factor_in)

    def astype(self, dtype: DTypeLike) -> "FactoredBank":
        return jax.tree.map(lambda each: each.astype(dtype), self)

    def whole(self) -> Float[Array, "sets k_h k_w c_in c_out"]:
        """Multiply the factors: the kernels."""
        return jnp.einsum("ir,shwr,sro->shwio", self.factor_in, self.taps, self.factor_out)


def whole(kernels: tuple[Array | FactoredBank, ...]) -> tuple[Array, ...]:
    """Return the banks with those of factors multiplied out."""
    return tuple(each.whole() if isinstance(each, FactoredBank) else each for each in kernels)


class Choice(NamedTuple):
    """A kernel that is one of a bank's, so that images with the same one can share it: ``bank[index]``.

    Attributes:
        index: of the kernel, the image's own; −1 for none: the convolution is zero, and costs nothing on CPUs.
        bank: (S, K_h, K_w, C_in, C_out) or their factors, shared by a batch: under ``vmap``, map the index only. An
            index >= S is refused by the C++ program for CPUs when it runs, and is taken for the last kernel elsewhere.
    """

    index: Int[Array, ""]  # type: ignore[assignment]  # hides tuple.index, which nothing asks of a Choice
    bank: Float[Array, "sets k_h k_w c_in c_out"] | FactoredBank

    def astype(self, dtype: DTypeLike) -> "Choice":
        return Choice(self.index, self.bank.astype(dtype))


def convolve(
    image: Float[Array, "h w c_in"],
    kernel: Float[Array, "_ _ _ _"] | Choice,
    *,
    stride: int | tuple[int, int] = 1,
    padding: str | tuple[tuple[int, int], tuple[int, int]] = "SAME",
    lowering: str | None = None,
) -> Float[Array, "h_out w_out c_out"]:
    """Cross-correlate one image with one kernel: y[p, o] = sum_{t, i} image[stride p + t, i] kernel[o, i, t].

    Args:
        image: (H, W, C_in).
        kernel: (C_out, C_in, K_h, K_w), or a :class:`Choice` from a bank of kernels that a batch shares.
        stride: an int, or (vertical, horizontal).
        padding: "SAME" (output ceil(H / stride), zeros around), "VALID", or ((top, bottom), (left, right)).
        lowering: a name in ``LOWERINGS``, for tests and benchmarks; None for the platform's own, ``default_lowering``.

    Returns:
        (H', W', C_out), in the common dtype of image and kernel. float32 and bfloat16 accumulate in float32.

    Raises:
        ValueError: for shapes, strides, paddings or lowerings that are not one of the above.
    """
    images, index, bank, static = _operands(image, kernel, stride, padding, lowering)
    dtype = jnp.promote_types(images.dtype, bank.dtype)
    images, bank = images.astype(dtype), bank.astype(dtype)
    if isinstance(bank, FactoredBank):
        return _by_factors(images, index, bank, **static)[0]
    return forward_p.bind(images, index, bank, **static)[0]


def layer(
    x: Float[Array, "h w c_in"],
    kernel: Float[Array, "c_out c_in k k"] | Choice,
    scale: Float[Array, " c_out"],
    shift: Float[Array, " c_out"],
    *,
    groups: int,
    dtype: DTypeLike,
    stride: int = 1,
    relu: bool = True,
    residual: bool = False,
    lowering: str | None = None,
) -> tuple[Float[Array, "h_out w_out c_out"], Float[Array, " c_out"]]:
    """Convolve one image, normalise over groups of channels, take the ReLU, add ``x``.

    Args:
        x: the layer's input.
        kernel: as :func:`convolve` takes it.
        scale, shift: of the normalisation.
        groups: of channels; where they do not divide the width, their greatest common divisor.
        dtype: compute type.
        stride: of the convolution; padding is "SAME".
        relu, residual: whether there is a ReLU, and whether the input is added after it, if the shapes are equal.
        lowering: as :func:`convolve` takes it.

    Returns:
        the output, and its mean over the map in float32.
    """
    images, index, bank, static = _operands(x, kernel, stride, "SAME", lowering)
    images, bank = images.astype(dtype), bank.astype(jnp.promote_types(dtype, jnp.float32))
    same = (*static["geometry"].output, bank.shape[-1]) == x.shape
    of_finish = {
        "groups": math.gcd(len(scale), groups),
        "relu": relu,
        "residual": residual and same,
        "epsilon": EPSILON,
    }
    if isinstance(bank, FactoredBank):
        maps = checkpoint_name(_by_factors(images, index, bank, **static), CONVOLVED)
        y, mean = finish_p.bind(maps, index, images, scale, shift, **of_finish, lowering=lowering)
    else:
        y, mean = layer_p.bind(images, index, bank, scale, shift, **static, **of_finish)
    return y[0], mean[0]


def _by_factors(images, index, bank, *, geometry, sets, lowering):
    """Convolve with factored kernels without multiplying the factors; zeros for index −1."""

    def by_pixel(x, index, factors):
        static = {"sets": len(factors), "lowering": lowering}
        geometry = Geometry(x.shape[1:3], (1, 1), (1, 1), ((0, 0), (0, 0)))
        return forward_p.bind(x, index, factors[:, None, None], geometry=geometry, **static)

    wide = checkpoint_name(by_pixel(images, jnp.minimum(index, 0), bank.factor_in[None]), CONVOLVED)
    moved = depthwise_p.bind(wide, index, bank.taps, geometry=geometry, sets=sets, lowering=lowering)
    return by_pixel(checkpoint_name(moved, CONVOLVED), index, bank.factor_out)


def _operands(image, kernel, stride, padding, lowering):
    """Check :func:`convolve`'s arguments, and return what the primitives take, for a batch of one: images, index, bank,
    and what is static."""
    if lowering is not None and lowering not in LOWERINGS:
        raise ValueError(f"lowering must be None or one of {sorted(LOWERINGS)}, got {lowering!r}")
    if lowering in native.LANES and not native.available():
        raise ValueError(
            f"lowering {lowering!r} was not built; install the package where there is a C++ compiler, or use None"
        )
    if isinstance(kernel, Choice):
        index, bank = kernel
        if index.ndim != 0 or bank.ndim != 5:
            raise ValueError(
                "Choice: takes an index () and a bank (S, K_h, K_w, C_in, C_out), got shapes "
                f"{index.shape} and {bank.shape}; use jax.vmap for batches"
            )
    else:
        if kernel.ndim != 4:
            raise ValueError(
                f"convolve takes one kernel (O, I, H, W), got shape {kernel.shape}; use jax.vmap for batches"
            )
        index, bank = jnp.zeros((), jnp.int32), jnp.transpose(kernel, (2, 3, 1, 0))[None]
    sets, *size, c_in, _ = bank.shape
    if image.ndim != 3 or image.shape[2] != c_in:
        raise ValueError(
            f"convolve takes one image (H, W, {c_in}), as its kernels do, got shape {image.shape}; "
            "use jax.vmap for batches"
        )
    geometry = _geometry(image.shape[:2], tuple(size), stride, padding)
    static = {"geometry": geometry, "sets": sets, "lowering": lowering}
    return image[None], index.astype(jnp.int32)[None], bank, static


def _geometry(image, kernel, stride, padding):
    stride = tuple(integer(each, "stride") for each in ((stride, stride) if np.ndim(stride) == 0 else stride))
    if len(stride) != 2:
        raise ValueError(f"stride must be an integer or two of them, got {stride}")
    if isinstance(padding, str):
        if padding.upper() not in ("SAME", "VALID"):
            raise ValueError(f'padding must be "SAME", "VALID" or ((top, bottom), (left, right)), got {padding!r}')
        padding = lax.padtype_to_pads(image, kernel, stride, padding.upper())
    geometry = Geometry(tuple(image), kernel, stride, tuple((int(lo), int(hi)) for lo, hi in padding))
    if min(geometry.output) < 1:
        raise ValueError(f"kernel {kernel} does not fit the padded image {image}, padding {geometry.padding}; pad more")
    return geometry
