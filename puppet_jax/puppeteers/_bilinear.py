"""The two bilinear maps that kernels are generated with, and gradients for them in an order that XLA:CPU runs fast.

JAX writes the gradient for the matrices of a product as (cotangent)ᵀ × coefficients, for which XLA:CPU first transposes
the cotangent, the largest array of all: with its own rule, coefficientsᵀ × cotangent, the gradient of 8 kernel sets of
128 channels takes half the time. For the weights of a depthwise convolution it makes nine reductions down to one row of
channels, none of them in parallel; summed over the columns in one pass first, they take a sixth of the time.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from puppet_jax._mesh import AlikePrimitive


def combine(
    coefficients: Float[Array, "rows basis"], matrices: Float[Array, "basis columns"]
) -> Float[Array, "rows columns"]:
    """Σ_b coefficients[r, b] matrices[b, c]; under ``vmap`` over coefficients still one product."""
    return _combine_p.bind(coefficients, matrices)


def depthwise(
    planes: Float[Array, "n columns rows channels"], weights: Float[Array, "3 3 channels"]
) -> Float[Array, "n columns rows channels"]:
    """Each channel's plane convolved with its own 3×3 weights (row, column), zeros beyond the border."""
    return _depthwise_p.bind(planes, weights)


def _product(coefficients, matrices):
    return coefficients @ matrices


def _shifted(planes):
    """The plane that each of the nine weights reads. As slices, not as a grouped convolution, which of one channel a
    group is slow on most platforms: XLA fuses them into the sum that follows."""
    columns, rows = planes.shape[1:3]
    padded = jnp.pad(planes, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [padded[:, j : j + columns, i : i + rows] for i in range(3) for j in range(3)]


def _stencil(planes, weights):
    return sum(w * shifted for w, shifted in zip(weights.reshape(9, 1, 1, 1, -1), _shifted(planes), strict=True))


def _weight_gradient(cotangent, planes):
    products = [shifted * cotangent for shifted in _shifted(planes)]
    zeros = [jnp.zeros((), cotangent.dtype)] * 9

    def add(a, b):
        return tuple(x + y for x, y in zip(a, b, strict=True))

    return jnp.stack(jax.lax.reduce(products, zeros, add, (1,))).sum((1, 2)).reshape(3, 3, -1)


def _primitive(
    name: str, function: Callable, shape: Callable, for_left: Callable, for_right: Callable
) -> AlikePrimitive:
    """A bilinear map of two arrays; under ``vmap`` over the left one alone, its leading axis grows."""

    def batch(operands, dims):
        left, right = operands
        if dims[1] is not None:
            return jax.vmap(function, dims)(*operands), 0
        left = jnp.moveaxis(left, dims[0], 0)
        out = primitive.bind(left.reshape(-1, *left.shape[2:]), right)
        return out.reshape(*left.shape[:2], *out.shape[1:]), 0

    primitive = AlikePrimitive(name)
    primitive.def_impl(jax.jit(function))
    primitive.def_abstract_eval(lambda left, right: left.update(shape=shape(left.shape, right.shape)))
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=False))
    batching.primitive_batchers[primitive] = batch
    ad.defbilinear(primitive, for_left, for_right)
    return primitive


_combine_p = _primitive(
    "puppet_combine",
    _product,
    lambda left, right: (left[0], right[1]),
    lambda cotangent, coefficients, matrices: jnp.einsum("rc,bc->rb", cotangent, matrices),
    lambda cotangent, coefficients, matrices: jnp.einsum("rb,rc->bc", coefficients, cotangent),
)
_depthwise_p = _primitive(
    "puppet_depthwise",
    _stencil,
    lambda left, right: left,
    lambda cotangent, planes, weights: depthwise(cotangent, weights[::-1, ::-1]),
    lambda cotangent, planes, weights: _weight_gradient(cotangent, planes),
)
