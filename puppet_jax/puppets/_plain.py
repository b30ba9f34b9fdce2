"""PlainPuppet: a chain of convolution layers in which any depth is an exit."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from puppet_jax.convolution import Choice, FactoredBank, layer
from puppet_jax.puppeteers._base import Kernels
from puppet_jax.puppets._layered import LayeredPuppet, recomputed, stem
from puppet_jax.puppets._layers import LayerSpec, kernel_shapes, least_size
from puppet_jax.puppets._pool import pool


class PlainPuppet(LayeredPuppet):
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
        self.layers = tuple(layers)
        self.max_depth = len(self.layers)
        self.levels = tuple(range(1, self.max_depth + 1))
        self.residual = residual
        super().__init__(
            kernel_shapes(self.layers, in_channels),
            least_size(self.layers),
            max(layer.width for layer in self.layers),
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
        last = depth if isinstance(depth, int) else self.max_depth
        self.check(image.shape, [kernel.shape for kernel in kernels], last)
        x = stem(image, self.dtype)
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
        x = stem(images, self.dtype)
        features = jnp.zeros((images.shape[0], self.head[...].shape[0]), jnp.float32)
        for place, kernels in enumerate(bank):
            # An image that has left gets index −1, for which the C++ convolution does no work.
            own = jnp.where(depths > place, indices[place], -1)

            def run(x, features, own, kernels, place=place):
                one = functools.partial(self.layer, index=place, lowering=lowering)
                y, means = jax.vmap(one, in_axes=(0, Choice(0, None)))(x, Choice(own, kernels))
                return y, jnp.where((depths == place + 1)[:, None], means, features)

            out = jax.eval_shape(run, x, features, own, kernels)[0]

            @recomputed
            def layer_or_none(x, features, own, kernels, run=run, out=out, place=place):
                skip = lambda x, features, own, kernels: (jnp.zeros(out.shape, out.dtype), features)  # noqa: E731
                return lax.cond(jnp.max(depths) > place, run, skip, x, features, own, kernels)

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

    def used(self, last: int) -> int:
        return last
