"""A model over a whole split: its accuracy, and the complexity and depth of each image."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import Mesh

import puppet_jax as pj
from train.data import Split, padded_batches
from train.devices import BATCH, ROWS, on_each_device, own_rows, rows


def evaluate(
    eval_step: Callable, params: nnx.State, rest: nnx.State, split: Split, batch_size: int, mesh: Mesh
) -> tuple[np.ndarray, np.ndarray]:
    """Loss of every image, float32 cross-entropy in nats, and the class that it is taken for, both ``(N,)``; every
    process gets all of them. They do not depend on ``batch_size`` but for rounding."""
    both = zip(*(batches(array, batch_size, mesh) for array in (split.images, split.labels)), strict=True)
    loss, taken = columns((eval_step(params, rest, images, labels) for images, labels in both), len(split))
    return loss, taken


def measure(model: pj.PuppetCNN, split: Split, batch_size: int, mesh: Mesh) -> dict[str, np.ndarray]:
    """Complexity in bits, depth, and whether the depth was clipped, of every image without augmentation."""

    def one_batch(images):
        complexity, depth = model.measure(images)
        found = complexity, depth, pj.depth_clipped(complexity, model.max_depth)
        return lax.all_gather(found, BATCH, tiled=True)

    run = jax.jit(on_each_device(one_batch, mesh, (ROWS,)))
    found = columns(map(run, batches(split.images, batch_size, mesh)), len(split))
    return dict(zip(("complexity", "depth", "clipped"), found, strict=True))


def accuracy_by(name: str, values: np.ndarray, correct: np.ndarray) -> list[dict[str, Any]]:
    """Accuracy of the images of each value that occurs, with their number; ``name`` is the key of the value."""
    return [
        {name: each.item(), "images": int(np.sum(values == each)), "accuracy": float(correct[values == each].mean())}
        for each in np.unique(values)
    ]


def confusion(labels: np.ndarray, taken: np.ndarray, classes: int) -> np.ndarray:
    """How many images of each class (row) are taken for each (column)."""
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, taken), 1)
    return counts


def kernels_by_bin(model: pj.PuppetCNN, complexity: np.ndarray) -> dict[float, list[np.ndarray]]:
    """The kernels of every layer at up to six complexities from the least to the greatest that images have."""
    levels = np.unique(complexity)
    levels = levels[np.unique(np.linspace(0, len(levels) - 1, 6).astype(int))]
    write = nnx.jit(lambda puppeteer, h: puppeteer(h))
    return {h.item(): [np.asarray(kernel) for kernel in write(model.puppeteer, h)] for h in levels}


def batches(array: np.ndarray, batch_size: int, mesh: Mesh) -> Iterable[jax.Array]:
    """An array's rows on the devices, ``batch_size`` at a time, the last ones filled up."""
    return (rows(mesh, own_rows(batch)) for batch in padded_batches(array, batch_size))


def columns(results: Iterable[tuple[jax.Array, ...]], count: int) -> list[np.ndarray]:
    """The ``count`` rows of each of several results, batch after batch, on the host."""
    # list: all batches are dispatched before the first result is waited for.
    columns = zip(*list(results), strict=True)
    return [np.concatenate([np.asarray(part) for part in parts])[:count] for parts in columns]
