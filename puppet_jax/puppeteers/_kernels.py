"""Kernels: their types, and what is done to them once made (averaged down to a layer's shape, standardised)."""

import functools
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

KernelShape = tuple[int, int, int, int]
"""(C_out, C_in, K_h, K_w) of one layer's kernel."""

Kernels = tuple[Float[Array, "_ _ _ _"], ...]
"""One kernel (C_out, C_in, K_h, K_w) a layer, from the first layer to the last; each layer has widths of its own."""

# Added to the variance: keeps a constant kernel (H = 0) at zero with a finite gradient.
_EPSILON = 1e-6


def standardise(kernel: Float[Array, "c_out c_in k_h k_w"]) -> Float[Array, "c_out c_in k_h k_w"]:
    """Shift each output channel's weights to mean 0 and scale them to variance 2 / fan_in, fan_in = C_in·K_h·K_w.

    Weight standardisation (Qiao et al. 2019, arXiv:1903.10520) with the He scale folded in. For generated kernels it
    matters more than the generator, as it removes the large constant that P0 puts into every weight.
    """
    fan_in = math.prod(kernel.shape[1:])
    # Output channels last, as kernels are generated and convolved: sums then run down columns, whole vectors at a time
    # (three times as fast on a CPU), and the two transpositions vanish in those of maker and user.
    columns = jnp.transpose(kernel, (2, 3, 1, 0))
    centred = columns - jnp.mean(columns, axis=(0, 1, 2), keepdims=True)
    variance = jnp.mean(centred**2, axis=(0, 1, 2))
    return jnp.transpose(centred * scale(variance, fan_in)[None, None, None], (3, 2, 0, 1))


def scale(variance: Float[Array, " c_out"], fan_in: int) -> Float[Array, " c_out"]:
    """Return what weights of a variance are multiplied by to have 2 / fan_in."""
    return jnp.sqrt(2.0 / fan_in / (variance + _EPSILON))


def standard_of_factors(
    taps: Float[Array, "t r"], factor_in: Float[Array, "c_in r"], factor_out: Float[Array, "r c_out"]
) -> tuple[Float[Array, " c_out"], Float[Array, " c_out"]]:
    """Return the mean and the scale by which :func:`standardise` shifts and scales the output channels of the kernel
    Σ_r factor_in[i, r] taps[t, r] factor_out[r, o], which is not formed.

    The variance is that of what varies over input channels, and of their mean over taps: both sums of squares, so that
    nothing cancels.
    """
    of_taps, of_inputs = jnp.mean(taps, axis=0), jnp.mean(factor_in, axis=0)
    varying, level = factor_in - of_inputs, taps - of_taps
    gram = (taps.T @ taps) * (varying.T @ varying) / len(factor_in)
    gram = (gram + (level.T @ level) * jnp.outer(of_inputs, of_inputs)) / len(taps)
    variance = jnp.sum((gram @ factor_out) * factor_out, axis=0)
    return (of_taps * of_inputs) @ factor_out, scale(variance, fan_in=len(taps) * len(factor_in))


def check_standardisable(kernel_shapes: tuple[KernelShape, ...], caller: str) -> None:
    """Raise ``ValueError`` if a kernel has one weight per output channel: with mean 0 it would be 0."""
    for layer, (_, *fan_in) in enumerate(kernel_shapes, start=1):
        if math.prod(fan_in) == 1:
            raise ValueError(
                f"{caller}: layer {layer} has one weight per output channel (1×1 on one channel), which "
                "standardisation would make zero; use kernel_size >= 2 there, or standardise=False"
            )


def adaptive_average(state: Float[Array, "..."], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Average ``state`` down to ``shape``, axis by axis.

    Output cell i of an axis of n cells pooled to m is the mean of input cells ⌊i·n/m⌋ … ⌈(i+1)·n/m⌉ − 1: PyTorch's
    ``adaptive_avg_pool`` on every axis. An axis that already has the right length is left alone.

    Raises:
        ValueError: the ranks differ, or ``shape`` is larger than ``state`` along some axis.
    """
    if len(shape) != state.ndim or any(m > n or m < 1 for m, n in zip(shape, state.shape, strict=False)):
        raise ValueError(f"adaptive_average: cannot average shape {state.shape} down to {tuple(shape)}")
    for axis, m in enumerate(shape):
        n = state.shape[axis]
        if m == n:
            continue
        weights = jnp.asarray(_averaging_matrix(n, m), state.dtype)
        state = jnp.moveaxis(jnp.tensordot(weights, state, axes=(1, axis)), 0, axis)
    return state


@functools.cache
def _averaging_matrix(n: int, m: int) -> np.ndarray:
    matrix = np.zeros((m, n), np.float32)
    for i in range(m):
        start, stop = i * n // m, -(-(i + 1) * n // m)
        matrix[i, start:stop] = 1.0 / (stop - start)
    return matrix
