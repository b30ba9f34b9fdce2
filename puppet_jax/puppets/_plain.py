"""PlainPuppet: a chain of convolution layers in which any depth is an exit."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from puppet_jax._integers import integer
from puppet_jax._mesh import cond
from puppet_jax.convolution import Choice, FactoredBank, layer
from puppet_jax.convolution._primitives import CONVOLVED
from puppet_jax.puppeteers._base import Kernels, of_deviation
from puppet_jax.puppets._base import Puppet

# Keeps the convolutions' results, and recomputes the rest backwards.
_recomputed = functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names(CONVOLVED))


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """One convolution layer.

    Attributes:
        width: C_out.
        kernel_size: K of the K×K kernel; SAME padding.
        stride: of the convolution.
        pool: window and stride of the average pooling after the layer; 1 for none. Rows and columns that do not fill
            a window are dropped.

    Raises:
        ValueError: a size below 1.
    """

    width: int
    kernel_size: int = 3
    stride: int = 1
    pool: int = 1

    def __post_init__(self):
        for name in ("width", "kernel_size", "stride", "pool"):
            object.__setattr__(self, name, integer(getattr(self, name), f"LayerSpec: {name}"))


class PlainPuppet(Puppet):
    """Convolution, normalisation, activation, D times; then the mean over the map, and a linear head.

    Layer l computes ``y = relu(norm_l(conv(x, P_l)))``, adds x where the shapes are equal (``residual``), and pools if
    its specification says so. The image leaves after layer D: its features are the means over the map of what layer
    D put out, whatever D is, padded with zeros to the widest layer's channels. Layers beyond D are computed and
    masked, so that shapes do not depend on data; their values and gradients do not reach the result.

    Every convolution kernel comes from outside. Stored here are the normalisation's scale and shift of each channel
    and the head. Normalisation is over groups of channels of one image (Wu and He 2018, arXiv:1803.08494), so that no
    sample sees another.

    Args:
        layers: a specification for each layer; their number is D_max.
        in_channels: channels of the image.
        num_classes: number of logits.
        norm_groups: groups of channels; a layer whose width it does not divide uses their greatest common divisor.
        residual: add a layer's input to its output where both have the same shape.
        dtype: compute type of the convolutions (float32 or bfloat16). Parameters, statistics, logits stay float32.
        rngs: Flax random streams; ``params`` is used.

    Raises:
        ValueError: no layers, or a size below 1.
    """

    def __init__(
        self,
        layers: Sequence[LayerSpec],
        *,
        in_channels: int,
        num_classes: int,
        norm_groups: int = 8,
        residual: bool = True,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if len(layers) == 0:
            raise ValueError("PlainPuppet: layers is empty; a puppet has one layer or more (D_max >= 1)")
        in_channels = integer(in_channels, "PlainPuppet: in_channels")
        num_classes = integer(num_classes, "PlainPuppet: num_classes")
        norm_groups = integer(norm_groups, "PlainPuppet: norm_groups")
        self.layers = tuple(layers)
        widths = [spec.width for spec in self.layers]
        self.kernel_shapes = tuple(
            (spec.width, c_in, spec.kernel_size, spec.kernel_size)
            for spec, c_in in zip(self.layers, [in_channels, *widths[:-1]], strict=True)
        )
        self.max_depth = len(self.layers)
        self.levels = tuple(range(1, self.max_depth + 1))
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.norm_groups = norm_groups
        self.residual = residual
        self.dtype = jnp.dtype(dtype)
        self.norm_scale = nnx.List([nnx.Param(jnp.ones(width, jnp.float32)) for width in widths])
        self.norm_shift = nnx.List([nnx.Param(jnp.zeros(width, jnp.float32)) for width in widths])
        features = max(widths)
        self.head = nnx.Param(of_deviation(rngs.params(), (features, num_classes), 1 / math.sqrt(features)))
        self.head_bias = nnx.Param(jnp.zeros((num_classes,), jnp.float32))

    def __call__(
        self, image: Float[Array, "h w c"], kernels: Kernels, depth: Int[Array, ""] | int
    ) -> Float[Array, " num_classes"]:
        """Logits of one image.

        Args:
            image: float in [0, 1], ``(H, W, in_channels)``.
            kernels: one (C_out, C_in, K, K) a layer. With a Python ``depth`` the first ``depth`` are enough.
            depth: D, the layer to leave after. An array masks the layers beyond; a Python integer cuts them off.

        Raises:
            ValueError: the image is smaller than the strides allow or has other channels, or the kernels do not fit.
        """
        return self.classify(self.features(image, kernels, depth))

    def features(
        self, image: Float[Array, "h w c"], kernels: Kernels, depth: Int[Array, ""] | int
    ) -> Float[Array, " features"]:
        """The mean over the map after layer D, padded with zeros to the widest layer. Arguments as for a call."""
        last = int(depth) if isinstance(depth, int | np.integer) else self.max_depth
        self.check(image.shape, [kernel.shape for kernel in kernels], last)
        x = self._pixels(image)
        features = jnp.zeros((self.head[...].shape[0],), jnp.float32)
        for index in range(last):
            x, mean = self.layer(x, kernels[index], index)
            features = jnp.where(depth == index + 1, mean, features)
        return features

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
        x = self._pixels(images)
        features = jnp.zeros((images.shape[0], self.head[...].shape[0]), jnp.float32)
        for place, kernels in enumerate(bank):
            # An image that has left gets index −1, for which the C++ convolution does no work.
            own = jnp.where(depths > place, indices[place], -1)

            def run(x, features, own, kernels, place=place):
                one = functools.partial(self.layer, index=place, lowering=lowering)
                y, means = jax.vmap(one, in_axes=(0, Choice(0, None)))(x, Choice(own, kernels))
                return y, jnp.where((depths == place + 1)[:, None], means, features)

            out = jax.eval_shape(run, x, features, own, kernels)[0]

            def skip(x, features, own, kernels, out=out):
                return jnp.zeros(out.shape, out.dtype), features

            @_recomputed
            def layer_or_none(x, features, own, kernels, run=run, skip=skip, place=place):
                return cond(jnp.max(depths) > place, run, skip, x, features, own, kernels)

            x, features = layer_or_none(x, features, own, kernels)
        return jax.vmap(self.classify)(features)

    def classify(self, features: Float[Array, " features"]) -> Float[Array, " num_classes"]:
        """The head: logits of an image's features."""
        return features @ self.head[...] + self.head_bias[...]

    def layer(
        self,
        x: Float[Array, "h w c_in"],
        kernel: Float[Array, "c_out c_in k k"] | Choice,
        index: int,
        lowering: str | None = None,
    ) -> tuple[Float[Array, "h_out w_out c_out"], Float[Array, " features"]]:
        """Layer ``index`` (from 0) of one image: convolution (its ``lowering`` as :func:`convolve` takes it),
        normalisation, activation, residual, pooling; and its mean over the map, padded to the widest layer."""
        spec = self.layers[index]
        norm = self.norm_scale[index][...], self.norm_shift[index][...]
        y, mean = layer(
            x,
            kernel,
            *norm,
            stride=spec.stride,
            groups=self.norm_groups,
            dtype=self.dtype,
            residual=self.residual,
            lowering=lowering,
        )
        if spec.pool > 1:
            y = pool(y, spec.pool)
            mean = jnp.mean(y, axis=(0, 1), dtype=jnp.float32)
        return y, jnp.pad(mean, (0, self.head[...].shape[0] - len(mean)))

    def compute_in(self, dtype: DTypeLike) -> None:
        """Set the compute type of the convolutions."""
        self.dtype = jnp.dtype(dtype)

    def normalisation_count(self) -> int:
        """Count the stored scales and shifts."""
        return sum(each.size for each in (*self.norm_scale, *self.norm_shift))

    def check(self, image_shape: tuple[int, ...], shapes: Sequence[tuple[int, ...]], last: int) -> None:
        """Raise ``ValueError`` if an image or kernels of these shapes cannot go through to depth ``last``."""
        least = math.prod(spec.stride * spec.pool for spec in self.layers)
        if min(image_shape[:2]) < least:
            raise ValueError(
                f"PlainPuppet: image of {image_shape[0]}×{image_shape[1]} pixels is smaller than strides and pooling "
                f"allow, {least}×{least}; enlarge the image or use fewer of them"
            )
        if image_shape[2] != self.in_channels:
            raise ValueError(
                f"PlainPuppet: image has {image_shape[2]} channels, the puppet was made for {self.in_channels}; "
                f"create it with in_channels={image_shape[2]}"
            )
        if not 1 <= last <= self.max_depth:
            raise ValueError(f"PlainPuppet: depth must lie in 1..{self.max_depth}, got {last}")
        if tuple(shapes[:last]) != self.kernel_shapes[:last]:
            raise ValueError(
                f"PlainPuppet: kernels must have shapes {self.kernel_shapes[:last]}, got {tuple(shapes)}; "
                "make the puppeteer from puppet.kernel_shapes"
            )

    def _pixels(self, images: Float[Array, "*batch h w c"]) -> Float[Array, "*batch h w c"]:
        """Shift and scale pixels, of mean near 1/2 and standard deviation near 1/4: what the first layer reads."""
        return ((images - 0.5) * 4.0).astype(self.dtype)


def pool(x: Float[Array, "h w c"], window: int) -> Float[Array, "h_out w_out c"]:
    """Take the mean of each window, in float32; rows and columns that do not fill one are dropped."""
    if window == 1:
        return x
    h, w, c = x.shape
    rows, columns = h // window, w // window
    # As a reshape: reduce_window's gradient is a scatter, slow on every platform.
    cells = x[: rows * window, : columns * window].reshape(rows, window, columns, window, c)
    return jnp.mean(cells, axis=(1, 3), dtype=jnp.float32).astype(x.dtype)
