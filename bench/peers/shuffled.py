"""Complexity shuffled among images: the control of whether adapting to complexity pays."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from puppet_jax._complexity import as_levels

_QUANTILES = json.loads(Path(__file__).parents[1].joinpath("cifar10_complexity.json").read_text())["quantiles"]


def complexity(images):
    """Of each image (*batch, H, W, C) the complexity of an arbitrary other one of CIFAR-10, in bits, (*batch,).

    Which one follows from the sum of its pixels' squares, so that an image and its mirror image always get the same.
    """
    total = jnp.sum(as_levels(jnp.asarray(images)).astype(jnp.uint32) ** 2, axis=(-3, -2, -1))
    mixed = (total ^ (total >> 7)) * jnp.uint32(2654435761)  # Knuth's multiplicative hash
    share = (mixed >> 8).astype(jnp.float32) / 2**24
    return jnp.interp(share, np.linspace(0.0, 1.0, len(_QUANTILES)), np.asarray(_QUANTILES))
