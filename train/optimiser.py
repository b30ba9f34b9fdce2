"""AdamW with warm-up, cosine decay and gradient clipping."""

from typing import Any

import jax
import optax

from train.config import Config


def learning_rate_schedule(peak: float, warmup: float, steps: int) -> optax.Schedule:
    """Learning rate by step: linear from 0 to ``peak`` over a share ``warmup`` of ``steps``, then a cosine to 0.

    Step k (from 0) uses ``peak · (k + 1) / w`` while k < w, where w = round(warmup · steps), so that the first step
    already moves; then ``peak · ½ (1 + cos(π (k - w) / (steps - w)))``.
    """
    rising = min(round(warmup * steps), steps - 1)
    falling = optax.cosine_decay_schedule(peak, steps - rising)
    if rising == 0:
        return falling
    return optax.join_schedules([optax.linear_schedule(peak / rising, peak, max(rising - 1, 1)), falling], [rising])


def make_optimiser(config: Config, steps: int) -> optax.GradientTransformation:
    """The optimiser of a resolved configuration for a run of ``steps`` steps."""
    schedule = learning_rate_schedule(config.learning_rate, config.warmup, steps)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(schedule, weight_decay=config.weight_decay, mask=decayed),
    )


def decayed(params: Any) -> Any:
    """True for the leaves that weight decay applies to: at least two axes, and not named a bias or a scale."""
    return jax.tree.map_with_path(lambda path, leaf: leaf.ndim >= 2 and not _spared(path), params)


def _spared(path: tuple) -> bool:
    # Norms stacked over layers have two axes, so the number of axes alone does not tell them from a matrix.
    names = [str(getattr(entry, "key", getattr(entry, "name", entry))).lower() for entry in path]
    return any(word in name for name in names for word in ("bias", "scale", "norm", "offset"))
