"""What becomes of ``nnx.BatchNorm`` in a puppet, where no image may see another: two ways to compute in its place.

Statistics over a batch would mix images that have gone through different kernels, and make an image's logits depend on
its neighbours; computed in a forward written for one image, they would be those of this one image.
"""

import math
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from puppet_jax.any_cnn._stand_in import stand_in
from puppet_jax.convolution._primitives import finish_p

_GROUPS = 8  # of channels; a width that they do not divide uses their greatest common divisor


def use_running(norm: nnx.BatchNorm) -> None:
    """From now on a batch normalisation uses its running averages, in training too; they are constants, scale and shift
    are learned. What it is told about batch statistics when it is called has no effect."""
    stand_in(norm, _running)


def use_groups(norm: Any) -> None:
    """From now on a batch normalisation is group normalisation (Wu and He 2018) with its scale, shift and epsilon.

    Statistics are an image's own, over groups of channels; over all channels where the map is a single position.
    """
    del norm.mean, norm.var
    norm.puppet_lowering = None
    stand_in(norm, _groups)


def _running(norm, own, x: Float[Array, "..."], *args, mask: Array | None = None, **kwargs) -> Float[Array, "..."]:
    del args, mask, kwargs
    return own(norm, x, use_running_average=True)


def _groups(
    norm, own, x: Float[Array, "n *space c"], *args, mask: Array | None = None, **kwargs
) -> Float[Array, "n *space c"]:
    del own, args, mask, kwargs
    scale = jnp.ones((norm.num_features,), jnp.float32) if norm.scale is None else norm.scale[...]
    shift = jnp.zeros((norm.num_features,), jnp.float32) if norm.bias is None else norm.bias[...]
    positions = math.prod(x.shape[1:-1])
    maps = x.reshape(len(x), positions, 1, x.shape[-1]).astype(jnp.float32)
    y, _ = finish_p.bind(
        maps,
        jnp.zeros(len(maps), jnp.int32),
        maps,
        scale.astype(jnp.float32),
        shift.astype(jnp.float32),
        groups=math.gcd(norm.num_features, _GROUPS) if positions > 1 else 1,
        epsilon=float(norm.epsilon),
        relu=False,
        residual=False,
        lowering=norm.puppet_lowering,
    )
    return y.reshape(x.shape).astype(norm.dtype or jnp.promote_types(x.dtype, scale.dtype))
