"""A trained model over a whole split: exact accuracy, and what it measured in each image."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

import puppet_jax as pj
from train.data import Split, padded_batches


def evaluate(eval_step: Callable, params: nnx.State, rest: nnx.State, split: Split, batch_size: int):
    """Loss and correctness of every image, each counted once.

    Args:
        eval_step: of :func:`train.step.make_eval_step`.
        batch_size: images at a time; results do not depend on it but for rounding.

    Returns:
        float32 cross-entropy in nats and bool, both ``(N,)``.
    """
    both = zip(padded_batches(split.images, batch_size), padded_batches(split.labels, batch_size), strict=True)
    results = [eval_step(params, rest, images, labels) for images, labels in both]
    loss, correct = (np.concatenate([np.asarray(part) for part in parts]) for parts in zip(*results, strict=True))
    return loss[: len(split)], correct[: len(split)]


def measure(model: pj.PuppetCNN, split: Split, batch_size: int) -> dict[str, np.ndarray]:
    """Complexity in bits, depth, and whether the depth was clipped, of every image as it lies in the split."""

    @jax.jit
    def one_batch(images):
        complexity, depth = model.measure(images)
        return complexity, depth, pj.depth_clipped(complexity, model.max_depth)

    results = [one_batch(images) for images in padded_batches(split.images, batch_size)]
    columns = (
        np.concatenate([np.asarray(part) for part in parts])[: len(split)] for parts in zip(*results, strict=True)
    )
    return dict(zip(("complexity", "depth", "clipped"), columns, strict=True))


def by_depth(depth: np.ndarray, correct: np.ndarray) -> list[dict[str, Any]]:
    """Accuracy of the images of each depth that occurs, with their number."""
    return [
        {"depth": int(d), "images": int(np.sum(depth == d)), "accuracy": float(correct[depth == d].mean())}
        for d in np.unique(depth)
    ]
