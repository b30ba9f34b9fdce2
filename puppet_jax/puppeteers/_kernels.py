"""Kernels: their types, and what is done to them once made (averaged down to a layer's shape, standardised)."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from puppet_jax.convolution._lowerings import Geometry
from puppet_jax.convolution._primitives import finish_p, forward_p

KernelShape = tuple[int, int, int, int]
"""(C_out, C_in, K_h, K_w) of one layer's kernel."""

Kernels = tuple[Float[Array, "_ _ _ _"], ...]
"""One kernel (C_out, C_in, K_h, K_w) a layer, from the first layer to the last; each layer has widths of its own."""

EPSILON = 1e-6
"""Added to the variance: keeps a constant kernel (H = 0) at zero with a finite gradient."""


def standardise(kernel: Float[Array, "c_out c_in k_h k_w"]) -> Float[Array, "c_out c_in k_h k_w"]:
    """Shift each output channel's weights to mean 0 and scale them to variance 2 / fan_in, fan_in = C_in·K_h·K_w.

    Weight standardisation (Qiao et al. 2019, arXiv:1903.10520) with the He scale folded in. For generated kernels it
    matters more than the generator, as it removes the large constant that P0 puts into every weight.
    """
    c_out, c_in, *size = kernel.shape
    rows = jnp.transpose(kernel, (2, 3, 1, 0)).reshape(1, -1, c_in, c_out)
    made = standardised(rows, jnp.zeros(1, jnp.int32))
    return jnp.transpose(made.reshape(*size, c_in, c_out), (3, 2, 0, 1))


def standardised(kernels: Float[Array, "s t i o"], index: Int[Array, " s"]) -> Float[Array, "s t i o"]:
    """Standardise S kernels, their output channels last; those of index −1 are zeros.

    It is what a layer does after its convolution, with groups of one channel: taps and input channels are the pixels.
    """
    fan_in, c_out = kernels.shape[1] * kernels.shape[2], kernels.shape[3]
    # Constants of NumPy, as JAX's own would be filled in by the program.
    constants = (jnp.asarray(np.full(c_out, number, kernels.dtype)) for number in (math.sqrt(2.0 / fan_in), 0.0))
    static = {"groups": c_out, "relu": False, "residual": False, "epsilon": EPSILON, "lowering": None}
    return finish_p.bind(kernels, index, kernels, *constants, **static)[0]


def product(
    rows: Float[Array, "s t b"], matrices: Float[Array, "n b c"], index: Int[Array, " s"]
) -> Float[Array, "s t c"]:
    """Σ_b rows[s, t, b] matrices[index[s], b, c]; zeros, which cost nothing on CPUs, for index −1.

    It is a convolution with 1×1 kernels, each matrix one, and ``t`` an image's pixels.
    """
    geometry = Geometry((rows.shape[1], 1), (1, 1), (1, 1), ((0, 0), (0, 0)))
    operands = rows[:, :, None], index.astype(jnp.int32), matrices[:, None, None]
    return forward_p.bind(*operands, geometry=geometry, sets=len(matrices), lowering=None)[:, :, 0]


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
        state = jnp.moveaxis(averages(jnp.moveaxis(state, axis, -1), [m])[0], -1, axis)
    return state


def averages(state: Float[Array, "*axes n"], lengths: Sequence[int]) -> list[Float[Array, "*axes m"]]:
    """Average the last axis down to each of these lengths, as :func:`adaptive_average` does, in one product."""
    n = state.shape[-1]
    shorter = [m for m in lengths if m < n]
    if not shorter:
        return [state] * len(lengths)
    matrices = jnp.concatenate([_averaging_matrix(n, m) for m in shorter])
    made = jnp.split(jnp.tensordot(state, matrices.T, 1), np.cumsum(shorter)[:-1].tolist(), axis=-1)
    return [made[shorter.index(m)] if m < n else state for m in lengths]


def _averaging_matrix(n: int, m: int) -> Float[Array, "m n"]:
    # In JAX, not as a constant, which would be most of a small exported graph.
    i, j = jnp.arange(m)[:, None], jnp.arange(n)[None]
    inside = ((j >= lax.div(i * n, m)) & (j < lax.div((i + 1) * n + m - 1, m))).astype(jnp.float32)
    return inside / jnp.sum(inside, axis=1, keepdims=True)
