"""Convolution of one image with its own kernel: what the puppet calls, and where its arguments are checked.

It is written for one image; ``jax.vmap`` makes a batch of it. What happens then is the business of
``bank_convolution.py``.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from puppet_jax.convolution import native
from puppet_jax.convolution._factored import FactoredBank, convolve_factored
from puppet_jax.convolution._lowerings import LOWERINGS, Geometry
from puppet_jax.convolution._primitives import forward_p


class Choice(NamedTuple):
    """A kernel that is one of a bank's, so that images with the same one can share it: ``bank[index]``.

    Attributes:
        index: of the kernel, the image's own; −1 for none, whose convolution is zero and costs nothing.
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
    layout: str = "OIHW",
    lowering: str | None = None,
) -> Float[Array, "h_out w_out c_out"]:
    """Cross-correlate one image with one kernel: y[p, o] = sum_{t, i} image[stride p + t, i] kernel[o, i, t].

    Args:
        image: (H, W, C_in).
        kernel: (C_out, C_in, K_h, K_w), or (K_h, K_w, C_in, C_out) with ``layout="HWIO"``; or a :class:`Choice`
            from a bank of kernels that a batch shares.
        stride: an int, or (vertical, horizontal).
        padding: "SAME" (output ceil(H / stride), zeros around), "VALID", or ((top, bottom), (left, right)).
        layout: the order of the kernel's axes. The lowerings compute in "HWIO"; a caller that is free to choose should
            generate its kernels so, because reordering a batch of kernels costs up to half of the convolution.
        lowering: a name in ``LOWERINGS``, for tests and benchmarks; None for the platform's own, ``default_lowering``.

    Returns:
        (H', W', C_out), in the common dtype of image and kernel. float32 and bfloat16 accumulate in float32.

    Raises:
        ValueError: for shapes, strides, paddings, layouts or lowerings that are not one of the above.
    """
    if isinstance(kernel, Choice) and isinstance(kernel.bank, FactoredBank):
        _check_lowering(lowering)
        if image.ndim != 3 or image.shape[2] != kernel.bank.shape[3]:
            raise ValueError(f"image of shape {image.shape}: these kernels take (H, W, {kernel.bank.shape[3]})")
        geometry = _geometry(image.shape[:2], kernel.bank.shape[1:3], stride, padding)
        return convolve_factored(image, kernel.index, kernel.bank, geometry, lowering)
    image, index, bank, static = operands_of(
        image, kernel, stride=stride, padding=padding, layout=layout, lowering=lowering
    )
    return forward_p.bind(image, index, bank, **static)[0]


def operands_of(
    image: Float[Array, "h w c_in"],
    kernel: Float[Array, "_ _ _ _"] | Choice,
    *,
    stride: int | tuple[int, int] = 1,
    padding: str | tuple[tuple[int, int], tuple[int, int]] = "SAME",
    layout: str = "OIHW",
    lowering: str | None = None,
) -> tuple[Array, Array, Array, dict]:
    """What :func:`convolve` gives to the primitive, for batches of one: images, index, bank, and what is static."""
    if layout not in ("OIHW", "HWIO"):
        raise ValueError(f'layout must be "OIHW" or "HWIO", got {layout!r}')
    _check_lowering(lowering)
    if isinstance(kernel, Choice):
        index, bank = kernel
        assert not isinstance(bank, FactoredBank)  # whose convolution is several primitives
        if index.ndim != 0 or bank.ndim != 5:
            raise ValueError(
                "Choice: takes an index () and a bank (S, K_h, K_w, C_in, C_out), got shapes "
                f"{index.shape} and {bank.shape}; use jax.vmap for batches"
            )
        kernel, layout = bank[0], "HWIO"
    else:
        index, bank = jnp.zeros((), jnp.int32), None
    if image.ndim != 3 or kernel.ndim != 4:
        raise ValueError(
            f"convolve takes one image (H, W, C_in) and one kernel ({', '.join(layout)}), got shapes {image.shape} and "
            f"{kernel.shape}; use jax.vmap for batches"
        )
    if layout == "OIHW":
        kernel = jnp.transpose(kernel, (2, 3, 1, 0))
    if image.shape[2] != kernel.shape[2]:
        raise ValueError(f"image has {image.shape[2]} channels, kernel takes {kernel.shape[2]} (layout {layout!r})")
    geometry = _geometry(image.shape[:2], kernel.shape[:2], stride, padding)
    dtype = jnp.promote_types(image.dtype, kernel.dtype)
    bank = (kernel[None] if bank is None else bank).astype(dtype)
    static = {"geometry": geometry, "sets": len(bank), "lowering": lowering}
    return image.astype(dtype)[None], index[None].astype(jnp.int32), bank, static


def _check_lowering(lowering: str | None) -> None:
    if lowering is not None and lowering not in LOWERINGS:
        raise ValueError(f"lowering must be None or one of {sorted(LOWERINGS)}, got {lowering!r}")
    if lowering is not None and lowering.startswith("native") and not native.available():
        raise ValueError(
            f"lowering {lowering!r} was not built; install the package where there is a C++ compiler, or use None"
        )


def _geometry(image, kernel, stride, padding):
    stride = (stride, stride) if isinstance(stride, int) else tuple(stride)
    if len(stride) != 2 or min(stride) < 1:
        raise ValueError(f"stride must be a positive int or two of them, got {stride}")
    if isinstance(padding, str):
        if padding.upper() not in ("SAME", "VALID"):
            raise ValueError(f'padding must be "SAME", "VALID" or ((top, bottom), (left, right)), got {padding!r}')
        padding = lax.padtype_to_pads(image, kernel, stride, padding.upper())
    geometry = Geometry(tuple(image), tuple(kernel), stride, tuple((int(lo), int(hi)) for lo, hi in padding))
    if min(geometry.output) < 1:
        raise ValueError(f"kernel {kernel} does not fit the padded image {image}, padding {geometry.padding}; pad more")
    return geometry
