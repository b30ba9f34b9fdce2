"""AdamW or Muon with warm-up, decay and gradient clipping; and the moving average of the parameters."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from train.config import ResolvedConfig

# The root mean square of Muon's updates over the learning rate: about AdamW's, so that one rate serves both (Liu et
# al. 2025, "Muon is scalable for LLM training", arXiv:2502.16982, §2.2).
MUON_RMS = 0.2

# The share of the steps in which the learning rate rises, and the global norm that gradients are scaled down to.
WARMUP, CLIP_NORM = 0.1, 1.0


def learning_rate(config: ResolvedConfig, steps: Any) -> optax.Schedule:
    """Learning rate by step: linear from 0 to the peak over a tenth of ``steps``, then falling to 0 as a cosine.

    Step k (from 0) uses ``peak · (k + 1) / w`` while k < w, where w = round(steps / 10), so that the first step already
    moves; then ``peak · ½ (1 + cos(π s))`` with s = (k - w) / (steps - w) from 0 to 1. ``steps`` may be traced.
    """
    rising = jnp.minimum(jnp.round(WARMUP * steps), steps - 1)

    def rate(step):
        falling = (1 + jnp.cos(jnp.pi * (step - rising) / (steps - rising))) / 2
        return config.learning_rate * jnp.where(step < rising, (step + 1) / rising, falling)

    return rate


def make_optimiser(config: ResolvedConfig, steps: Any) -> optax.GradientTransformation:
    """The optimiser of a resolved configuration for a run of ``steps`` steps, which may be traced.

    ``"adamw"``, or ``"muon"`` (Jordan et al. 2024): the puppeteer's matrices get updates whose singular values are all
    about one, everything else what AdamW gives it.
    """
    rate, decay = learning_rate(config, steps), config.weight_decay
    optimiser = optax.adamw(rate, weight_decay=decay, mask=decayed)
    if config.optimiser == "muon":
        muon = optax.contrib.muon(
            rate, weight_decay=decay, consistent_rms=MUON_RMS, muon_weight_dimension_numbers=_as_matrices
        )
        label = lambda params: jax.tree.map(lambda yes: "muon" if yes else "adamw", orthogonalised(params))  # noqa: E731
        optimiser = optax.partition({"adamw": optimiser, "muon": muon}, label)
    return optax.chain(optax.clip_by_global_norm(CLIP_NORM), optimiser)


def orthogonalised(params: Any) -> Any:
    """True for the leaves that Muon updates: those of the puppeteer that weight decay applies to."""
    return jax.tree.map_with_path(lambda path, yes: yes and "puppeteer" in _names(path), decayed(params))


def _as_matrices(params: Any) -> Any:
    """How Muon reads each array as matrices.

    A kernel (C_out, C_in, K, K) is one matrix of C_out rows. (stack, rows, columns) is a stack of square matrices; if
    they are not square they are low-rank factors, and the short axis joins the stack's to make one matrix.
    """

    def read(x):
        if x.ndim == 4:
            return optax.contrib.MuonDimensionNumbers((1, 2, 3), 0)
        if x.ndim == 3 and x.shape[1] > x.shape[2]:
            return optax.contrib.MuonDimensionNumbers((0, 2), 1)
        if x.ndim == 3 and x.shape[1] < x.shape[2]:
            return optax.contrib.MuonDimensionNumbers((0, 1), 2)
        return optax.contrib.MuonDimensionNumbers(x.ndim - 1, x.ndim - 2)

    return jax.tree.map(read, params)


def averaged(average: Any, params: Any, decay: float, count: Any) -> Any:
    """The exponential moving average of parameters, updated with ``params`` after ``count`` earlier updates.

    Without bias: the mean of all parameters so far (not the initial ones) with weights ``decay^age``, computed as
    m_n = (1 - w) p_n + w m_(n-1) with w = decay (1 - decay^(n-1)) / (1 - decay^n), which grows from 0 to ``decay``.
    """
    # expm1, as 1 - decay^n loses all its digits where decay is close to 1.
    rest = lambda n: -jnp.expm1(n * math.log(decay))  # noqa: E731
    count = count.astype(jnp.float32)
    weight = decay * rest(count) / rest(count + 1)
    return jax.tree.map(lambda m, p: p + weight * (m - p), average, params)


def decayed(params: Any) -> Any:
    """True for the leaves that weight decay applies to: two axes or more, and no bias or normalisation."""
    return jax.tree.map_with_path(lambda path, leaf: leaf.ndim >= 2 and not _spared(path), params)


def _spared(path: tuple) -> bool:
    # Norms stacked over layers have two axes, so the number of axes alone does not tell them from a matrix.
    return any(word in name for name in _names(path) for word in ("bias", "scale", "norm"))


def _names(path: tuple) -> list[str]:
    return [str(getattr(entry, "key", getattr(entry, "name", entry))).lower() for entry in path]
