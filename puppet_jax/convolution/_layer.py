"""What puppets are made of: a convolution, normalisation, activation and the input added, as one JAX primitive.

On a CPU, where it was built, the C++ program does all of it for an image while the map is in the cache. Elsewhere, and
under differentiation, it is its parts.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from puppet_jax.convolution import native
from puppet_jax.convolution._convolve import Choice, convolve, operands_of
from puppet_jax.convolution._factored import CONVOLVED, FactoredBank
from puppet_jax.convolution._finish import finish_p
from puppet_jax.convolution._image_rules import give_rules
from puppet_jax.convolution._lowerings import default_lowering
from puppet_jax.convolution._primitives import compiled, forward_p

recomputed = functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names(CONVOLVED))
"""``jax.checkpoint`` that keeps the convolutions' results, and recomputes the rest backwards."""


def stem(image: Float[Array, "*batch h w c"], dtype: DTypeLike) -> Float[Array, "*batch h w c"]:
    """What a first layer reads: pixels, of mean near 1/2 and standard deviation near 1/4, shifted and scaled."""
    return ((image - 0.5) * 4.0).astype(dtype)


def layer(
    x: Float[Array, "h w c_in"],
    kernel: Float[Array, "c_out c_in k k"] | Choice,
    scale: Float[Array, " c_out"],
    shift: Float[Array, " c_out"],
    *,
    groups: int,
    dtype: DTypeLike,
    stride: int = 1,
    relu: bool = True,
    residual: bool = False,
    lowering: str | None = None,
) -> tuple[Float[Array, "h_out w_out c_out"], Float[Array, " c_out"]]:
    """Of one image: convolution, computed in ``dtype``; group normalisation; ReLU; ``x`` added.

    Args:
        x: the layer's input.
        kernel: as :func:`convolve` takes it.
        scale, shift: of the normalisation.
        groups: of channels; where they do not divide the width, their greatest common divisor.
        stride: of the convolution.
        relu, residual: whether there is a ReLU, and whether the input is added after it, if the shapes are equal.
        lowering: as :func:`convolve` takes it.

    Returns:
        the output, and its mean over the map in float32.
    """
    further: dict[str, Any] = {"groups": math.gcd(len(scale), groups), "relu": relu}
    if isinstance(kernel, Choice) and isinstance(kernel.bank, FactoredBank):
        x = x.astype(dtype)
        y = checkpoint_name(convolve(x, kernel.astype(dtype), stride=stride, lowering=lowering), CONVOLVED)
        further |= {"residual": residual and y.shape == x.shape, "lowering": lowering}
        y, mean = finish_p.bind(y[None], kernel.index[None], x[None], scale, shift, **further)
        return y[0], mean[0]
    image, index, bank, static = operands_of(x, kernel.astype(dtype), stride=stride, lowering=lowering)
    shape = (*static["geometry"].output, bank.shape[-1])
    y, mean = layer_p.bind(
        image, index, bank, scale, shift, **static, **further, residual=residual and shape == x.shape
    )
    return y[0], mean[0]


def _parts(images, index, bank, scale, shift, *, groups, relu, residual, **static):
    maps = checkpoint_name(forward_p.bind(images, index, bank, **static), CONVOLVED)
    more = {"groups": groups, "relu": relu, "residual": residual, "lowering": static["lowering"]}
    return finish_p.bind(maps, index, images, scale, shift, **more)


layer_p = Primitive("puppet_layer")
layer_p.multiple_results = True


def _lower(platform):
    def run(*operands, geometry, sets, lowering, groups, relu, residual):
        images, bank, scale = operands[0], operands[2], operands[3]
        chosen = lowering or default_lowering(platform)
        if platform == "cpu" and chosen.startswith("native") and images.dtype == scale.dtype == jnp.float32:
            shape = (images.shape[0], *geometry.output, bank.shape[-1])
            more = groups, relu, residual, native.LANES[chosen]
            return native.layer(operands, shape, geometry.stride, geometry.padding, *more)
        static = {"geometry": geometry, "sets": sets, "lowering": lowering}
        return _parts(*operands, groups=groups, relu=relu, residual=residual, **static)

    mlir.register_lowering(layer_p, mlir.lower_fun(run, multiple_results=True), platform=platform)


for _platform in ("cpu", None):
    _lower(_platform)


layer_p.def_impl(compiled(layer_p))
layer_p.def_abstract_eval(
    lambda images, index, bank, scale, shift, **static: [
        images.update(shape=(images.shape[0], *static["geometry"].output, bank.shape[-1])),
        images.update(shape=(images.shape[0], bank.shape[-1]), dtype=jnp.dtype(jnp.float32)),
    ]
)
give_rules(layer_p, _parts, shared=(2, 3, 4))
