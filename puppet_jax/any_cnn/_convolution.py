"""What a layer with a generated kernel convolves with, in the place of ``lax.conv_general_dilated``."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax.nnx.nn.linear import canonicalize_padding
from jax import lax
from jaxtyping import Array, Float, Int

from puppet_jax.convolution import Choice, whole
from puppet_jax.convolution._grouped import convolve_grouped


def transposed(conv, own, inputs: Float[Array, "..."]) -> Float[Array, "..."]:
    """``nnx.ConvTranspose`` as a convolution, by its ``conv_general_dilated``, of inputs with zeros between them."""
    del own
    rank = len(conv.kernel_size)
    bias = None if conv.bias is None else conv.bias[...]
    inputs, kernel, bias = conv.promote_dtype((inputs, conv.kernel[...], bias), dtype=conv.dtype)
    strides, dilation = (
        (each or 1,) * rank if each is None or isinstance(each, int) else tuple(each)
        for each in (conv.strides, conv.kernel_dilation)
    )
    padding = canonicalize_padding(conv.padding, rank)
    if isinstance(padding, str):  # as lax.conv_transpose has it
        spans = [((k - 1) * d + 1, s) for k, d, s in zip(conv.kernel_size, dilation, strides, strict=True)]
        if padding == "SAME":
            padding = [(k - 1 if s > k - 1 else -(-(k + s - 2) // 2), k + s - 2) for k, s in spans]
        else:
            padding = [(k - 1, k + s - 2 + max(k - s, 0)) for k, s in spans]
        padding = [(low, both - low) for low, both in padding]
    axes = "N" + "DHW"[-rank:] + "C"
    y = conv.conv_general_dilated(
        inputs.reshape(-1, *inputs.shape[-rank - 1 :]),
        kernel,
        (1,) * rank,
        padding,
        lhs_dilation=strides,
        rhs_dilation=dilation,
        dimension_numbers=(axes, axes[1:-1] + "IO", axes),
        feature_group_count=1,
        precision=conv.precision,
        preferred_element_type=conv.preferred_element_type,
    )
    y = y if bias is None else y + bias
    return y.reshape(*inputs.shape[: -rank - 1], *y.shape[1:])


def convolution(
    kernel: Choice,
    inputs: Float[Array, "n *space c"],
    unused,
    strides: tuple[int, ...],
    padding,
    *,
    lhs_dilation: tuple[int, ...],
    rhs_dilation: tuple[int, ...],
    feature_group_count: int,
    preferred_element_type=None,
    lowering: str | None = None,
    may_be_skipped: bool = False,
    **unused_options,
) -> Float[Array, "n *space_out c_out"]:
    """``lax.conv_general_dilated`` as ``nnx.Conv`` calls it, but for the kernel: a generated one, whatever it passes.

    It is computed as the project's per-sample convolutions are, which cost images nothing that skip them. Of three
    spatial axes the frames that meet one of the result's become channels, as which the kernel has them.
    """
    del unused, unused_options  # always channels last
    groups, (_, *size, c_in, _) = feature_group_count, kernel.bank.shape
    space = inputs.ndim - 2
    size = [c_in * groups // inputs.shape[-1], *size][-space:] if space > 2 else size[-space:]
    if isinstance(padding, str):  # as lax does: the kernel with its dilation, the image without
        spans = [(k - 1) * d + 1 for k, d in zip(size, rhs_dilation, strict=True)]
        padding = lax.padtype_to_pads(inputs.shape[1:-1], spans, strides, padding)
    padding = tuple((int(low), int(high)) for low, high in padding)
    if {*lhs_dilation} != {1} or min(map(min, padding)) < 0:
        around = [(low, high, d - 1) for (low, high), d in zip(padding, lhs_dilation, strict=True)]
        inputs = lax.pad(inputs, jnp.zeros((), inputs.dtype), ((0, 0, 0), *around, (0, 0, 0)))
        padding = ((0, 0),) * space
    frames = inputs.shape[:1]
    if space == 1:
        inputs, strides, padding, rhs_dilation = inputs[:, None], (1, *strides), ((0, 0), *padding), (1, *rhs_dilation)
    elif space == 3:
        inputs, frames = _frames_as_channels(inputs, size[0], strides[0], padding[0], rhs_dilation[0], groups)
        strides, padding, rhs_dilation = strides[1:], padding[1:], rhs_dilation[1:]
    run = functools.partial(
        convolve_grouped,
        kernel=kernel.astype(inputs.dtype),
        stride=(strides[0], strides[1]),
        padding=padding,
        dilation=(rhs_dilation[0], rhs_dilation[1]),
        groups=groups,
        lowering=lowering,
    )
    out = run(inputs[0])[None] if len(inputs) == 1 else jax.vmap(run)(inputs)
    if not any(map(any, padding)) and math.prod(size) > 1:
        out = jnp.where(jnp.abs(out) <= _rounding(kernel, inputs).astype(out.dtype), jnp.zeros((), out.dtype), out)
    if may_be_skipped:
        out = _harmless(out, kernel.index)
    out = out[:, 0] if space == 1 else out.reshape(*frames, *out.shape[1:])
    return out if preferred_element_type is None else out.astype(preferred_element_type)


def _rounding(kernel, inputs) -> Float[Array, " c_out"]:
    """What is no more than rounding in a convolution's results, by the sums of what cancels in them.

    A standardised kernel answers an image of one grey with nothing, where no border of zeros meets it: with rounding,
    which layers of normalisation after it would make large, another one for each way to compute it.
    """
    (bank,) = whole((kernel.bank,))
    largest = jnp.max(jnp.abs(inputs)).astype(jnp.float32)
    return lax.stop_gradient(2.0**-20 * jnp.abs(bank).sum((1, 2, 3), dtype=jnp.float32)[kernel.index] * largest)


def _frames_as_channels(inputs, size, stride, padding, dilation, groups):
    """The frames that each frame of the result sees, side by side as channels of each group: (N·D', H, W, size·C); and
    (N, D')."""
    padded = jnp.pad(inputs, ((0, 0), padding, *[(0, 0)] * 3))
    count = (padded.shape[1] - (size - 1) * dilation - 1) // stride + 1
    begins = range(0, size * dilation, dilation)
    seen = jnp.stack([padded[:, i : i + (count - 1) * stride + 1 : stride] for i in begins], -2)
    seen = jnp.swapaxes(seen.reshape(*seen.shape[:-1], groups, -1), -2, -3)
    batch, _, *plane = seen.shape[:4]
    return seen.reshape(batch * count, *plane, -1), (batch, count)


@jax.custom_jvp
def _harmless(y: Float[Array, "n h w c"], index: Int[Array, ""]) -> Float[Array, "n h w c"]:
    """The result of a convolution, as it is; in a derivative other numbers for an image that skips it (index −1).

    What follows in the block sees zeros of such an image, and its slope there may be infinite, as that of a root. A
    cotangent of zero times infinity would be NaN in the gradients of parameters that all images share.
    """
    del index
    return y


@_harmless.defjvp
def _harmless_derivative(primals, tangents):
    y, index = primals
    places = enumerate(np.indices(y.shape[1:], np.float32, sparse=True), 1)
    waves = sum((jnp.asarray(np.sin(axis * place), y.dtype) for axis, place in places), start=jnp.asarray(2, y.dtype))
    return jnp.where(index >= 0, y, waves), jnp.where(index >= 0, tangents[0], 0)
