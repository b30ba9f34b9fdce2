"""What plain and staged puppets share: kernels from outside, normalisation and a linear head stored."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from puppet_jax.convolution._primitives import CONVOLVED
from puppet_jax.puppeteers._base import KernelShape, of_deviation
from puppet_jax.puppets._base import Puppet

recomputed = functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names(CONVOLVED))
"""``jax.checkpoint`` that keeps the convolutions' results, and recomputes the rest backwards."""


def stem(image: Float[Array, "*batch h w c"], dtype: DTypeLike) -> Float[Array, "*batch h w c"]:
    """Shift and scale pixels, of mean near 1/2 and standard deviation near 1/4: what a first layer reads."""
    return ((image - 0.5) * 4.0).astype(dtype)


class LayeredPuppet(Puppet):
    """Parameters and checks; subclasses say how an image goes through, and what ``max_depth`` is.

    Args:
        kernel_shapes: (C_out, C_in, K, K) of each convolution.
        least_size: height and width below which an image cannot go through.
        features: what the head reads.
        in_channels, num_classes, norm_groups, dtype, rngs: see the subclasses.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(
        self,
        kernel_shapes: tuple[KernelShape, ...],
        least_size: int,
        features: int,
        *,
        in_channels: int,
        num_classes: int,
        norm_groups: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        sizes = {"in_channels": in_channels, "num_classes": num_classes, "norm_groups": norm_groups}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{type(self).__name__}: {name} must be at least 1, got {value}")
        self.kernel_shapes = kernel_shapes
        self.least_size = least_size
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.norm_groups = norm_groups
        self.dtype = jnp.dtype(dtype)
        self.norm_scale = nnx.List([nnx.Param(jnp.ones(shape[:1], jnp.float32)) for shape in kernel_shapes])
        self.norm_shift = nnx.List([nnx.Param(jnp.zeros(shape[:1], jnp.float32)) for shape in kernel_shapes])
        self.head = nnx.Param(of_deviation(rngs.params(), (features, num_classes), 1 / math.sqrt(features)))
        self.head_bias = nnx.Param(jnp.zeros((num_classes,), jnp.float32))

    def compute_in(self, dtype: DTypeLike) -> None:
        """Set the compute type of the convolutions."""
        self.dtype = jnp.dtype(dtype)

    def normalisation_count(self) -> int:
        """Stored scales and shifts."""
        return sum(each.size for each in (*self.norm_scale, *self.norm_shift))

    def check(self, image_shape: tuple[int, ...], shapes: Sequence[tuple[int, ...]], last: int) -> None:
        """Raise ``ValueError`` if an image or kernels of these shapes cannot go through to depth ``last``."""
        name, least = type(self).__name__, self.least_size
        if min(image_shape[:2]) < least:
            raise ValueError(
                f"{name}: image of {image_shape[0]}×{image_shape[1]} pixels is smaller than strides and pooling allow, "
                f"{least}×{least}; enlarge the image or use fewer of them"
            )
        if image_shape[2] != self.in_channels:
            raise ValueError(
                f"{name}: image has {image_shape[2]} channels, the puppet was made for {self.in_channels}; "
                f"create it with in_channels={image_shape[2]}"
            )
        if not 1 <= last <= self.max_depth:
            raise ValueError(f"{name}: depth must lie in 1..{self.max_depth}, got {last}")
        used = self.used(last)
        if len(shapes) < used or tuple(shapes[:used]) != self.kernel_shapes[:used]:
            raise ValueError(
                f"{name}: kernels must have shapes {self.kernel_shapes[:used]}, got {tuple(shapes)}; "
                "make the puppeteer from puppet.kernel_shapes"
            )

    def used(self, last: int) -> int:
        """How many of the first kernels an image of depth ``last`` needs."""
        del last
        return len(self.kernel_shapes)
