"""The CNNs of the presets in stages, whose widths grow and whose maps shrink: plain modules, to be puppetized."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from puppet_jax._integers import integer
from puppet_jax.puppets._plain import pool


class ConvolutionBlock(nnx.Module):
    """``relu(norm(conv(x)))`` (VGG; Simonyan and Zisserman 2015), of the means over windows of ``stride``."""

    def __init__(self, c_in: int, c_out: int, stride: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.stride = stride
        self.conv = nnx.Conv(c_in, c_out, (3, 3), use_bias=False, dtype=dtype, rngs=rngs)
        self.norm = nnx.BatchNorm(c_out, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c_in"]) -> Float[Array, "n h_out w_out c_out"]:
        return nnx.relu(self.norm(self.conv(jax.vmap(functools.partial(pool, window=self.stride))(x))))


class ResidualBlock(nnx.Module):
    """``relu(x + norm(conv(relu(norm(conv(x))))))`` (He et al. 2016, section 4.2).

    Where the block changes shape its first convolution is strided, and the shortcut takes every ``stride``-th pixel and
    fills up with channels of zeros (their option A), so that it has no kernel.
    """

    def __init__(self, c_in: int, c_out: int, stride: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.stride, self.more = stride, c_out - c_in
        conv = functools.partial(nnx.Conv, kernel_size=(3, 3), use_bias=False, dtype=dtype, rngs=rngs)
        self.first = conv(c_in, c_out, strides=stride)
        self.first_norm = nnx.BatchNorm(c_out, dtype=dtype, rngs=rngs)
        self.last = conv(c_out, c_out)
        self.last_norm = nnx.BatchNorm(c_out, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c_in"]) -> Float[Array, "n h_out w_out c_out"]:
        y = nnx.relu(self.first_norm(self.first(x)))
        y = self.last_norm(self.last(y))
        shortcut = jnp.pad(x[:, :: self.stride, :: self.stride], [(0, 0)] * 3 + [(0, self.more)])
        return nnx.relu(y + shortcut)


class StagedNet(nnx.Module):
    """A convolution, stages of blocks, the mean over the map, and a linear head.

    Args:
        block: the kind of block.
        blocks: of each stage. The first block of each but the first stage halves the map and doubles the width.
        width: of the first stage.
        in_channels: channels of the image, in [0, 1].
        num_classes: number of logits.
        dtype: compute type (float32 or bfloat16) of all but the head. Parameters and logits stay float32.
        rngs: Flax random streams; ``params`` is used.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(
        self,
        block: type[ConvolutionBlock] | type[ResidualBlock],
        blocks: tuple[int, ...],
        width: int,
        *,
        in_channels: int,
        num_classes: int,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        width = integer(width, "StagedNet: width")
        in_channels = integer(in_channels, "StagedNet: in_channels")
        num_classes = integer(num_classes, "StagedNet: num_classes")
        self.dtype = jnp.dtype(dtype)
        self.stem = ConvolutionBlock(in_channels, width, 1, dtype=dtype, rngs=rngs)
        made, c_in = [], width
        for stage, count in enumerate(blocks):
            for place in range(count):
                entrance = stage > 0 and place == 0
                made.append(block(c_in, width << stage, 2 if entrance else 1, dtype=dtype, rngs=rngs))
                c_in = width << stage
        self.blocks = nnx.List(made)
        self.head = nnx.Linear(c_in, num_classes, rngs=rngs)

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n num_classes"]:
        x = self.stem(((images - 0.5) * 4).astype(self.dtype))
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(x, axis=(1, 2), dtype=jnp.float32))


puppet_vgg = functools.partial(StagedNet, ConvolutionBlock, (2, 3, 4))
puppet_resnet = functools.partial(StagedNet, ResidualBlock, (3, 3, 3))  # 19 convolutions, those of ResNet-20
