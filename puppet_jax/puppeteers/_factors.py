"""Continuous kernels that stay factors, standardised without being formed: a formula, and its C++ program for CPUs.

For the kernels k[s, t, i, o] = Σ_r v[i, r] taps[s, t, r] u[r, o] of one layer, means and variances over taps and input
channels follow from the Gram matrices of the factors. XLA takes most of a second to compile the formula and its
gradient for a layer, and on CPUs reads and writes R × R matrices of every set many times.
"""

import jax
import jax.numpy as jnp
from jax.interpreters import ad
from jaxtyping import Array, Float, Int

from puppet_jax.convolution._primitives import give_rules, primitive_of
from puppet_jax.puppeteers._kernels import EPSILON


def standardised_factors(
    taps: Float[Array, "s t r"],
    index: Int[Array, " s"],
    factor_in: Float[Array, "i r"],
    factor_out: Float[Array, "r o"],
) -> Float[Array, "s r_and_one o"]:
    """Return output factors with which the kernels are standardised (see :func:`standardise`).

    Below them is a row more: a product of ones that takes the mean away. Zeros for sets whose ``index`` is −1.
    """
    return factors_p.bind(taps, index, factor_in, factor_out, epsilon=EPSILON, lowering=None)[0]


def _factors(taps, index, factor_in, factor_out, *, epsilon, lowering=None):
    """The variance is that of what varies over input channels, and of their mean over taps: both sums of squares, so
    that nothing cancels."""
    del lowering
    fan_in = taps.shape[1] * len(factor_in)
    of_inputs = jnp.mean(factor_in, axis=0)
    varying = factor_in - of_inputs[None]
    of_inputs_gram = varying.T @ varying / len(factor_in)

    def of_set(taps):
        of_taps = jnp.mean(taps, axis=0)
        level = taps - of_taps[None]
        gram = (taps.T @ taps) * of_inputs_gram + (level.T @ level) * jnp.outer(of_inputs, of_inputs)
        variance = jnp.sum((gram @ factor_out) * factor_out, axis=0) / len(taps)
        mean = (of_taps * of_inputs) @ factor_out
        return jnp.concatenate([factor_out, -mean[None]]) * jnp.sqrt(2.0 / fan_in / (variance + epsilon))[None]

    return [jnp.where((index >= 0)[:, None, None], jax.vmap(of_set)(taps), 0)]


def _tangent(*operands, **static):
    *tangents, taps, index, factor_in, factor_out = operands

    def run(*factors):
        return _factors(factors[0], index, *factors[1:], **static)

    return jax.jvp(run, (taps, factor_in, factor_out), tuple(tangents))[1]


def _gradient(cotangent, taps, index, factor_in, factor_out, **static):
    def run(*factors):
        return _factors(factors[0], index, *factors[1:], **static)[0]

    return list(jax.vjp(run, taps, factor_in, factor_out)[1](cotangent))


def _shape(taps, index, factor_in, factor_out, **static):
    return [taps.update(shape=(taps.shape[0], taps.shape[2] + 1, factor_out.shape[1]))]


factors_p = primitive_of("factors", _shape, _factors)
tangent_p = primitive_of("factors_tangent", lambda a, b, c, *operands, **static: _shape(*operands), _tangent)
gradient_p = primitive_of(
    "factors_gradient", lambda cotangent, taps, index, *factors, **static: [taps, *factors], _gradient
)
give_rules(factors_p, _factors, shared=(2, 3))
give_rules(tangent_p, _tangent, shared=tuple(range(7)))
give_rules(gradient_p, _gradient, shared=tuple(range(5)))


def _factors_jvp(primals, tangents, **static):
    of_taps, _, *others = tangents
    moving = map(ad.instantiate_zeros, (of_taps, *others))
    return factors_p.bind(*primals, **static), tangent_p.bind(*moving, *primals, **static)


def _tangent_transpose(cotangents, *operands, **static):
    found = gradient_p.bind(ad.instantiate_zeros(cotangents[0]), *operands[3:], **static)
    linear = zip(operands[:3], found, strict=True)
    return [each if ad.is_undefined_primal(one) else None for one, each in linear] + [None] * 4


ad.primitive_jvps[factors_p] = _factors_jvp
ad.primitive_transposes[tangent_p] = _tangent_transpose
