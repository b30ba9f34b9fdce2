"""What puppets are made of: a convolution with an image's own kernel, then normalisation; and what it starts from."""

import functools
import math

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from puppet_jax.puppets.convolution import Choice, convolve
from puppet_jax.puppets.group_norm import group_norm

_CONVOLVED = "puppet_jax.convolved"

recomputed = functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names(_CONVOLVED))
"""``jax.checkpoint`` that keeps the convolutions' results, and recomputes the rest backwards."""


def stem(image: Float[Array, "*batch h w c"], dtype: DTypeLike) -> Float[Array, "*batch h w c"]:
    """What a first layer reads: pixels, of mean near 1/2 and standard deviation near 1/4, shifted and scaled."""
    return ((image - 0.5) * 4.0).astype(dtype)


def convolve_and_normalise(
    x: Float[Array, "h w c_in"],
    kernel: Float[Array, "c_out c_in k k"] | Choice,
    scale: Float[Array, " c_out"],
    shift: Float[Array, " c_out"],
    *,
    groups: int,
    dtype: DTypeLike,
    stride: int = 1,
    lowering: str | None = None,
) -> Float[Array, "h_out w_out c_out"]:
    """Convolution of one image, computed in ``dtype``, and group normalisation.

    ``groups`` that do not divide the width become their greatest common divisor; ``lowering`` as :func:`convolve` takes
    it.
    """
    y = checkpoint_name(convolve(x, kernel.astype(dtype), stride=stride, lowering=lowering), _CONVOLVED)
    return group_norm(y, math.gcd(len(scale), groups), scale, shift)
