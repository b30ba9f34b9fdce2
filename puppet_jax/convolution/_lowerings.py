"""The convolution's three maps, forward, image gradient and kernel gradient, written in JAX: what accelerators run, and
CPUs without the C++ program (``native/``). They take images, an index and a bank of kernels, whole or depthwise."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from puppet_jax.convolution import native

LOWERINGS = ("gathered", *native.LANES)
"""Names of what a convolution may become: batched products of gathered kernels, or the C++ program for CPUs."""


def default_lowering(platform: str | None) -> str:
    """Return the lowering that ``convolve`` takes on a platform: the C++ program on CPUs where it was built, else
    batched products of gathered kernels.

    A gathered kernel costs one more reading and writing of K² C_in C_out numbers for each image, a few times its map's.
    """
    return "native" if platform == "cpu" and native.available() else "gathered"


class Geometry(NamedTuple):
    """The sizes of a convolution: with them the shapes of two of images, kernels and outputs give the third's.

    Attributes:
        image, kernel: (height, width).
        stride: (vertical, horizontal).
        padding: ((top, bottom), (left, right)).
    """

    image: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]

    @property
    def output(self) -> tuple[int, int]:
        """(height, width) of the result."""
        h, w = ((n + lo + hi - k) // s + 1 for n, k, s, (lo, hi) in zip(*self, strict=True))
        return h, w


# ---- A bank of one kernel: one ordinary convolution of all images, and its transposes


def _shared_forward(images, index, bank, sets, geo):
    """One ordinary convolution, NHWC x HWIO: the only layout that XLA:CPU gives to Eigen (others run a naive loop).

    Computed in float32 for bfloat16 operands too: XLA:CPU has no faster bfloat16 convolution to lose.
    """
    wide, layout = jnp.promote_types(images.dtype, jnp.float32), ("NHWC", "HWIO", "NHWC")
    out = lax.conv_general_dilated(
        images.astype(wide), bank[0].astype(wide), geo.stride, geo.padding, dimension_numbers=layout
    )
    return jnp.where((index >= 0)[:, None, None, None], out, 0).astype(images.dtype)


def _shared_image_gradient(cotangents, index, bank, sets, geo):
    images = jax.ShapeDtypeStruct((len(index), *geo.image, bank.shape[3]), cotangents.dtype)
    return jax.linear_transpose(lambda images: _shared_forward(images, index, bank, sets, geo), images)(cotangents)[0]


def _shared_kernel_gradient(images, cotangents, index, sets, geo):
    bank = jax.ShapeDtypeStruct((1, *geo.kernel, images.shape[-1], cotangents.shape[-1]), images.dtype)
    return jax.linear_transpose(lambda bank: _shared_forward(images, index, bank, sets, geo), bank)(cotangents)[0]


_ONE_KERNEL = (_shared_forward, _shared_image_gradient, _shared_kernel_gradient)


# ---- By taps: a sum over the kernel's taps of matrix products. No patches are formed.


def _taps(images, geo):
    """For each of the K_h K_w taps, the pixels it meets: (B, H, W, C) -> (B, H', W', C), strided slices."""
    (top, bottom), (left, right) = geo.padding
    images = jnp.pad(images, ((0, 0), (top, bottom), (left, right), (0, 0)))
    (h, w), (s, t) = geo.output, geo.stride
    for i in range(geo.kernel[0]):
        for j in range(geo.kernel[1]):
            yield i, j, images[:, i : i + (h - 1) * s + 1 : s, j : j + (w - 1) * t + 1 : t]


def _back_to_pixels(of_taps, geo, batch, channels):
    """The transpose of ``_taps``: what each tap gives back, summed where the tap took its pixels from."""
    zeros = jnp.zeros((batch, *geo.image, channels), of_taps[0].dtype)
    (images,) = jax.linear_transpose(lambda x: tuple(seen for *_, seen in _taps(x, geo)), zeros)(tuple(of_taps))
    return images


def _wide_einsum(equation, left, right):
    return jnp.einsum(equation, left, right, preferred_element_type=jnp.promote_types(left.dtype, jnp.float32))


def _gathered(bank, index):
    kernels = jnp.take(bank, index, axis=0, mode="clip")
    return jnp.where((index >= 0).reshape(-1, *[1] * (bank.ndim - 1)), kernels, jnp.zeros((), bank.dtype))


def _gathered_forward(images, index, bank, sets, geo):
    """Kernels gathered for every image; each tap one batched product (H' W', C_in) x (C_in, C_out), B times."""
    kernels = _gathered(bank, index)
    out = sum(_wide_einsum("bhwi,bio->bhwo", seen, kernels[:, i, j]) for i, j, seen in _taps(images, geo))
    return out.astype(images.dtype)


def _gathered_image_gradient(cotangents, index, bank, sets, geo):
    kernels = _gathered(bank, index)
    places = [(i, j) for i in range(geo.kernel[0]) for j in range(geo.kernel[1])]
    of_taps = [_wide_einsum("bhwo,bio->bhwi", cotangents, kernels[:, i, j]) for i, j in places]
    return _back_to_pixels(of_taps, geo, len(index), bank.shape[3]).astype(cotangents.dtype)


def _gathered_kernel_gradient(images, cotangents, index, sets, geo):
    """Each image's own gradient, one product for each tap; summed over a kernel's images by a product: no atomics."""
    own = jax.nn.one_hot(index, sets, dtype=jnp.float32)
    of_taps = []
    for *_, seen in _taps(images, geo):
        of_images = _wide_einsum("bhwi,bhwo->bio", seen, cotangents)
        of_taps.append(jnp.einsum("bs,bio->sio", own, of_images, precision=lax.Precision.HIGHEST))
    return jnp.stack(of_taps, 1).reshape(sets, *geo.kernel, *of_taps[0].shape[1:]).astype(images.dtype)


_GATHERED = (_gathered_forward, _gathered_image_gradient, _gathered_kernel_gradient)


# ---- Depthwise: each channel with taps of its own


def _wide_taps(bank, index):
    return _gathered(bank, index)[:, None, None].astype(jnp.promote_types(bank.dtype, jnp.float32))


def _depthwise_forward(images, index, bank, sets, geo):
    taps = _wide_taps(bank, index)
    return sum(seen * taps[:, :, :, i, j] for i, j, seen in _taps(images, geo)).astype(images.dtype)


def _depthwise_image_gradient(cotangents, index, bank, sets, geo):
    taps = _wide_taps(bank, index)
    of_taps = [cotangents * taps[:, :, :, i, j] for i in range(geo.kernel[0]) for j in range(geo.kernel[1])]
    return _back_to_pixels(of_taps, geo, len(index), bank.shape[-1]).astype(cotangents.dtype)


def _depthwise_kernel_gradient(images, cotangents, index, sets, geo):
    own = jax.nn.one_hot(index, sets, dtype=jnp.float32)
    of_images = jnp.stack([_wide_einsum("bhwi,bhwi->bi", seen, cotangents) for *_, seen in _taps(images, geo)], 1)
    of_sets = jnp.einsum("bs,bti->sti", own, of_images, precision=lax.Precision.HIGHEST)
    return of_sets.reshape(sets, *geo.kernel, images.shape[-1]).astype(images.dtype)


_DEPTHWISE = (_depthwise_forward, _depthwise_image_gradient, _depthwise_kernel_gradient)


# ---- Which of them


def shape_of(which: int, left, middle, right, sets: int, geo: Geometry, depthwise: bool) -> tuple:
    """Return the shape of a map's result; ``which``: 0 forward, 1 image gradient, 2 kernel gradient."""
    if which == 0:
        return (left.shape[0], *geo.output, right.shape[-1])
    if which == 1:
        return (left.shape[0], *geo.image, right.shape[-1 if depthwise else -2])
    return (sets, *geo.kernel, *(() if depthwise else left.shape[-1:]), middle.shape[-1])


def formula_of(which: int, sets: int, depthwise: bool) -> Callable:
    """Return the function of one of the three maps, for a bank of so many kernels. A bank of one kernel takes one
    ordinary convolution; an index beyond the bank means its last kernel."""
    if depthwise:
        return _DEPTHWISE[which]
    return (_ONE_KERNEL if sets == 1 else _GATHERED)[which]
