"""What becomes of ``nnx.BatchNorm`` in a puppet, where no image may see another: two modules to stand in its place.

Statistics over a batch would mix images that have gone through different kernels, and make an image's logits depend on
its neighbours; computed in a forward written for one image, they would be those of this one image.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from puppet_jax.puppets.group_norm import group_norm


class RunningNorm(nnx.Module):
    """A batch normalisation by its running averages, in training too; they are constants, scale and shift are learned.

    Args:
        norm: the layer, kept whole.
    """

    def __init__(self, norm: nnx.BatchNorm):
        self.norm = norm

    def __call__(
        self, x: Float[Array, "..."], use_running_average: bool | None = None, *, mask: Array | None = None
    ) -> Float[Array, "..."]:
        """Called as the layer was; its arguments about batch statistics have no effect."""
        del use_running_average, mask
        return self.norm(x, use_running_average=True)


class ImageNorm(nnx.Module):
    """Group normalisation (Wu and He 2018) with a batch normalisation's scale, shift and epsilon.

    Statistics are an image's own, over groups of channels; over all channels where the map is a single position.

    Args:
        norm: the layer whose scale and shift are taken over.
        groups: of channels; a width that they do not divide uses their greatest common divisor.
    """

    def __init__(self, norm: nnx.BatchNorm, groups: int = 8):
        self.scale = norm.scale if norm.scale is not None else nnx.data(None)
        self.bias = norm.bias if norm.bias is not None else nnx.data(None)
        self.num_features = norm.num_features
        self.epsilon = norm.epsilon
        self.dtype = norm.dtype
        self.groups = math.gcd(norm.num_features, groups)

    def __call__(
        self, x: Float[Array, "n *space c"], use_running_average: bool | None = None, *, mask: Array | None = None
    ) -> Float[Array, "n *space c"]:
        """Called as the layer was; its arguments about batch statistics have no effect."""
        del use_running_average, mask
        scale = jnp.ones((self.num_features,), jnp.float32) if self.scale is None else self.scale[...]
        shift = jnp.zeros((self.num_features,), jnp.float32) if self.bias is None else self.bias[...]
        positions = math.prod(x.shape[1:-1])
        groups = self.groups if positions > 1 else 1
        one = lambda image: group_norm(image, groups, scale, shift, self.epsilon)  # noqa: E731
        y = jax.vmap(one)(x.reshape(len(x), positions, 1, x.shape[-1]).astype(jnp.float32))
        return y.reshape(x.shape).astype(self.dtype or jnp.promote_types(x.dtype, scale.dtype))
