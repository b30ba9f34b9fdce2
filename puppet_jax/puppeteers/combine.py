"""Weighted sums of channel matrices, as one matrix product whose gradients are matrix products in an order XLA:CPU
runs fast.

JAX writes the gradient for the matrices as (cotangent)ᵀ × coefficients, for which XLA:CPU first transposes the
cotangent, the largest array of all: with its own rule, coefficientsᵀ × cotangent, the gradient of 8 kernel sets of 128
channels takes half the time.
"""

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float


def combine(
    coefficients: Float[Array, "rows basis"], matrices: Float[Array, "basis columns"]
) -> Float[Array, "rows columns"]:
    """Σ_b coefficients[r, b] matrices[b, c]; under ``vmap`` over coefficients still one product."""
    return _combine_p.bind(coefficients, matrices)


def _product(coefficients, matrices):
    return coefficients @ matrices


def _batch(operands, dims):
    coefficients, matrices = operands
    if dims[1] is not None:
        return jax.vmap(_product, dims)(*operands), 0
    coefficients = jnp.moveaxis(coefficients, dims[0], 0)
    out = _combine_p.bind(coefficients.reshape(-1, coefficients.shape[-1]), matrices)
    return out.reshape(*coefficients.shape[:2], -1), 0


_combine_p = Primitive("puppet_combine")
_combine_p.def_impl(jax.jit(_product))
_combine_p.def_abstract_eval(lambda a, b: a.update(shape=(a.shape[0], b.shape[1])))
mlir.register_lowering(_combine_p, mlir.lower_fun(_product, multiple_results=False))
batching.primitive_batchers[_combine_p] = _batch
ad.defbilinear(
    _combine_p,
    lambda cotangent, coefficients, matrices: jnp.einsum("rc,bc->rb", cotangent, matrices),
    lambda cotangent, coefficients, matrices: jnp.einsum("rb,rc->bc", coefficients, cotangent),
)
