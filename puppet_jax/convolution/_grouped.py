"""Dilated and grouped convolutions, as plain and depthwise ones of parts of an image: skipping one costs nothing."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from puppet_jax.convolution._convolve import Choice, convolve, whole
from puppet_jax.convolution._lowerings import Geometry
from puppet_jax.convolution._primitives import depthwise_p


def convolve_grouped(
    image: Float[Array, "h w c_in"],
    kernel: Choice,
    stride: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
    dilation: tuple[int, int],
    groups: int,
    lowering: str | None = None,
) -> Float[Array, "h_out w_out c_out"]:
    """Convolve one image with a kernel of (K_h, K_w, C_in / groups, C_out), its taps ``dilation`` pixels apart.

    Arguments are checked by the caller; all of one type.
    """
    if dilation != (1, 1):
        of_phase = functools.partial(convolve_grouped, groups=groups, lowering=lowering)
        return _of_phases(of_phase, image, kernel, stride, padding, dilation)
    if groups == 1:
        return convolve(image, kernel, stride=stride, padding=padding, lowering=lowering)
    (bank,) = whole((kernel.bank,))
    sets, k_h, k_w, each, c_out = bank.shape
    if each == 1:
        image = jnp.repeat(image, c_out // groups, axis=-1)
        geometry = Geometry((image.shape[0], image.shape[1]), (k_h, k_w), stride, padding)
        static = {"geometry": geometry, "sets": sets, "lowering": lowering}
        return depthwise_p.bind(image[None], kernel.index.astype(jnp.int32)[None], bank[:, :, :, 0], **static)[0]
    # A group is an image by itself, whose kernel is the group's part of the bank.
    parts = jnp.moveaxis(image.reshape(*image.shape[:2], groups, each), 2, 0)
    banks = jnp.moveaxis(bank.reshape(sets, k_h, k_w, each, groups, -1), 4, 1).reshape(
        -1, k_h, k_w, each, c_out // groups
    )
    indices = jnp.where(kernel.index < 0, -1, kernel.index * groups + jnp.arange(groups))
    run = functools.partial(convolve, stride=stride, padding=padding, lowering=lowering)
    out = jax.vmap(lambda part, index: run(part, Choice(index, banks)))(parts, indices)
    return jnp.moveaxis(out, 0, 2).reshape(*out.shape[1:3], c_out)


def _of_phases(run, image, kernel, stride, padding, dilation):
    """One of d outputs in each direction sees one of d pixels: d² convolutions of images of these, without dilation.

    Where there is a stride too, the outputs between its steps are computed and left out.
    """
    inner = tuple(s if d == 1 else 1 for s, d in zip(stride, dilation, strict=True))
    outer = tuple(s if d > 1 else 1 for s, d in zip(stride, dilation, strict=True))
    config, lengths, counts = [], [], []
    for n, k, s, (lo, hi), d in zip(image.shape, kernel.bank.shape[1:3], inner, padding, dilation, strict=False):
        count = (n + lo + hi - (k - 1) * d - 1) // s + 1
        lengths.append((-(-count // d) - 1) * s + k)  # of each phase
        config.append((lo, d * lengths[-1] - n - lo, 0))
        counts.append(count)
    (down, across), (h, w), c_in = dilation, lengths, image.shape[-1]
    padded = lax.pad(image, jnp.zeros((), image.dtype), (*config, (0, 0, 0)))
    phases = padded.reshape(h, down, w, across, c_in).transpose(1, 3, 0, 2, 4).reshape(-1, h, w, c_in)
    of_phase = functools.partial(run, stride=inner, padding=((0, 0), (0, 0)), dilation=(1, 1))
    out = jax.vmap(lambda phase: of_phase(phase, kernel))(phases)
    _, h, w, c_out = out.shape
    out = out.reshape(down, across, h, w, c_out).transpose(2, 0, 3, 1, 4).reshape(h * down, w * across, c_out)
    return out[: counts[0] : outer[0], : counts[1] : outer[1]]
