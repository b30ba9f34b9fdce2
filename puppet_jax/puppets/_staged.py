"""StagedPuppet: VGG-like and ResNet-like CNNs, whose widths grow and whose maps shrink from stage to stage."""

import functools
from collections.abc import Sequence
from typing import get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from puppet_jax.any_cnn._depth_levels import number_of_depths
from puppet_jax.convolution import Choice, FactoredBank, layer
from puppet_jax.puppeteers._base import Kernels
from puppet_jax.puppets._layered import LayeredPuppet, recomputed, stem
from puppet_jax.puppets._pool import pool
from puppet_jax.puppets._stages import Block, BlockKind, StageSpec, blocks_of, kernel_shapes, least_size


class StagedPuppet(LayeredPuppet):
    """Stages of blocks; an image passes the blocks beyond its depth unchanged. Then the mean over the map, and a head.

    A stage begins with its *entrance*, which changes width and map and always runs; n_s blocks follow it, whose result
    has their argument's shape, so that to skip one is the identity. Depth is spread over the stages as
    :func:`puppet_jax.puppetize` spreads it over somebody else's: let n be the sum of all n_s and L = ``max_depth``. At
    depth D, ⌈n·D / L⌉ blocks run, and at least the first of each stage: those of least (i − 1) / n_s, where i = 1 …
    n_s is the block's place in its stage s, earlier stages first. So stages fill up evenly, a deeper image runs what a
    shallower one does, and D = L runs everything. With L = n each depth beyond the number of stages adds one block.

    Two kinds of block, both with normalisation as in :class:`PlainPuppet` (each image's own):

    - ``"convolution"`` (VGG; Simonyan and Zisserman 2015): ``relu(norm(conv(x)))``; an entrance takes the maximum over
      windows of ``stride`` first.
    - ``"residual"`` (ResNet; He et al. 2016, section 4.2): ``relu(x + norm(conv(relu(norm(conv(x))))))``; at an
      entrance the first convolution is strided, and the shortcut takes every ``stride``-th pixel and fills up with
      channels of zeros (their option A), so that it has no kernel.

    The first stage's entrance is one strided convolution, normalisation and ReLU, of the image.

    Every convolution kernel comes from outside, in the order in which they run. A puppeteer averages what it makes for
    the widest stage down to the others, so that stages share it.

    Args:
        stages: one specification a stage; their widths do not fall.
        block: the kind.
        in_channels: channels of the image.
        num_classes: number of logits.
        max_depth: L; the default is n, but at most 8: for H in bits D(H) is at most 8.
        norm_groups: groups of channels; a width that it does not divide uses their greatest common divisor.
        dtype: compute type of the convolutions (float32 or bfloat16). Parameters, statistics, logits stay float32.
        rngs: Flax random streams; ``params`` is used.

    Attributes:
        kernel_shapes: (C_out, C_in, K, K) of each convolution.
        levels: the least depth D that uses each of them.
        blocks: what runs, in order.

    Raises:
        ValueError: no stages, an unknown kind, widths that fall, or a size below 1.
    """

    def __init__(
        self,
        stages: Sequence[StageSpec],
        *,
        block: BlockKind = "residual",
        in_channels: int,
        num_classes: int,
        max_depth: int | None = None,
        norm_groups: int = 8,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if len(stages) == 0:
            raise ValueError("StagedPuppet: stages is empty; a puppet has one stage or more")
        if block not in get_args(BlockKind):
            raise ValueError(f"StagedPuppet: block must be one of {get_args(BlockKind)}, got {block!r}")
        widths = [stage.width for stage in stages]
        if widths != sorted(widths):
            raise ValueError(f"StagedPuppet: widths of stages must not fall, got {widths}")
        self.stages = tuple(stages)
        self.block = block
        self.max_depth = number_of_depths(sum(stage.blocks for stage in stages), max_depth, "StagedPuppet")
        self.blocks = blocks_of(self.stages, block, self.max_depth)
        self.levels = tuple(each.level for each in self.blocks for _ in each.convolutions)
        super().__init__(
            kernel_shapes(self.stages, block, in_channels),
            least_size(self.stages),
            widths[-1],
            in_channels=in_channels,
            num_classes=num_classes,
            norm_groups=norm_groups,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(
        self, image: Float[Array, "h w c"], kernels: Kernels, depth: Int[Array, ""] | int
    ) -> Float[Array, " num_classes"]:
        """Logits of one image.

        Args:
            image: float in [0, 1], ``(H, W, in_channels)``.
            kernels: one (C_out, C_in, K, K) a convolution.
            depth: D. An array masks the blocks beyond; a Python integer leaves them out.

        Raises:
            ValueError: the image is smaller than the strides allow or has other channels, the depth lies outside 1 …
                ``max_depth``, or the kernels do not fit.
        """
        last = depth if isinstance(depth, int) else self.max_depth
        self.check(image.shape, [kernel.shape for kernel in kernels], last)
        x = stem(image, self.dtype)
        for block in self.blocks:
            if block.level <= last:
                y = self.run(block, x, tuple(kernels[i] for i in block.convolutions))
                x = y if block.level == 1 else jnp.where(depth >= block.level, y, x)
        return self.classify(x)

    def batch(
        self,
        images: Float[Array, "b h w c"],
        indices: tuple[Int[Array, " b"], ...],
        bank: tuple[Float[Array, "_ _ _ _ _"] | FactoredBank, ...],
        depths: Int[Array, " b"],
        samples: Int[Array, " b"],
        lowering: str | None = None,
    ) -> Float[Array, "b num_classes"]:
        del samples
        x = stem(images, self.dtype)
        for block in self.blocks:
            runs = depths >= block.level
            # An image that skips the block gets index −1, for which the C++ convolution does no work.
            own = tuple(jnp.where(runs, indices[i], -1) for i in block.convolutions)

            def run(x, own, used, block=block, runs=runs):
                kernels = tuple(map(Choice, own, used))
                one = functools.partial(self.run, block, lowering=lowering)
                y = jax.vmap(one, in_axes=(0, (Choice(0, None),) * len(kernels)))(x, kernels)
                return jnp.where(runs[:, None, None, None], y, x) if y.shape == x.shape else y

            used = tuple(bank[i] for i in block.convolutions)
            out = jax.eval_shape(run, x, own, used)

            @recomputed
            def block_or_none(x, own, used, run=run, out=out, block=block):
                # A block that changes the map's shape runs at every depth; only a chunk of mere padding skips it.
                skip = lambda x, *_: x if x.shape == out.shape else jnp.zeros(out.shape, out.dtype)  # noqa: E731
                return lax.cond(jnp.max(depths) >= block.level, run, skip, x, own, used)

            x = block_or_none(x, own, used)
        return jax.vmap(self.classify)(x)

    def classify(self, x: Float[Array, "h w c"]) -> Float[Array, " num_classes"]:
        """The head: logits of the mean over the last stage's map."""
        return jnp.mean(x, axis=(0, 1), dtype=jnp.float32) @ self.head[...] + self.head_bias[...]

    def run(
        self,
        block: Block,
        x: Float[Array, "h w c_in"],
        kernels: Kernels | tuple[Choice, ...],
        lowering: str | None = None,
    ) -> Float[Array, "h_out w_out c_out"]:
        """One image through one block, with the block's own kernels; ``lowering`` as :func:`convolve` takes it."""

        def unit(x, place, stride=1, relu=True):
            index = block.convolutions[place]
            norm = self.norm_scale[index][...], self.norm_shift[index][...]
            options = {"groups": self.norm_groups, "dtype": self.dtype, "stride": stride, "lowering": lowering}
            return layer(x, kernels[place], *norm, relu=relu, **options)[0]

        if block.kind == "stem":
            return unit(x, 0, block.stride)
        if block.kind == "convolution":
            return unit(pool(x, block.stride), 0)
        y = unit(unit(x, 0, block.stride), 1, relu=False)
        shortcut = x[:: block.stride, :: block.stride]
        shortcut = jnp.pad(shortcut, ((0, 0), (0, 0), (0, y.shape[2] - x.shape[2])))
        return jax.nn.relu(y + shortcut)
