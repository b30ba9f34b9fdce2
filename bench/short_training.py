"""A short training of any NNX classifier by the functional loop of Flax's examples."""

import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
import optax
from flax import nnx

from train.data import Split
from train.steps.augment import augment
from train.steps.optimiser import decayed, learning_rate_schedule

CHUNK = 500  # images evaluated together


def train(
    model: nnx.Module,
    call: Callable,
    split: Split,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    augmentation: str,
    seed: int = 0,
) -> tuple[nnx.Module, float]:
    """A trained copy of a model, and the seconds that its steps took, the first step (compilation) left out.

    AdamW as ``python -m train`` has it: warm-up over a tenth, cosine decay, weight decay 0.01 on matrices and kernels,
    gradients clipped to norm 1. Whole batches only.

    Args:
        model: any NNX module; whatever else than parameters changes in a call (averages, streams) is carried along.
        call: ``call(model, images)``, images uint8 (B, H, W, C), to logits.
        split: training images and labels.
        epochs, batch_size, learning_rate, augmentation: the recipe.
        seed: of the order of images and of augmentation.
    """
    steps = epochs * (len(split) // batch_size)
    schedule = learning_rate_schedule(learning_rate, 0.1, steps)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.01, mask=decayed))
    model = nnx.clone(model)
    model.train()
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def step(params, rest, state, images, labels, key):
        images = augment(images, jax.random.split(key, len(images)), augmentation)

        def loss_of(params):
            # Variables made in this trace, as only those may be changed in it.
            model = nnx.merge(graphdef, params, jax.tree.map(lambda x: x, rest))
            logits = call(model, images)
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return loss, nnx.split(model, nnx.Param, ...)[2]

        gradients, rest_after = jax.grad(loss_of, has_aux=True)(params)
        updates, state = optimiser.update(gradients, state, params)
        return optax.apply_updates(params, updates), rest_after, state

    state, keys = optimiser.init(params), jax.random.split(jax.random.key(seed), steps)
    began = time.perf_counter()
    for index, (images, labels) in enumerate(_batches(split, epochs, batch_size, seed)):
        params, rest, state = step(params, rest, state, images, labels, keys[index])
        if index == 0:
            jax.block_until_ready(params)
            began = time.perf_counter()
    jax.block_until_ready(params)
    seconds = time.perf_counter() - began
    model = nnx.merge(graphdef, params, rest)
    model.eval()
    return model, seconds


def accuracy(model: nnx.Module, call: Callable, split: Split) -> float:
    """The share of a split's images that a model in evaluation mode puts into the right class."""
    graphdef, state = nnx.split(model)
    run = jax.jit(lambda state, images: call(nnx.merge(graphdef, state), images).argmax(-1))
    right = 0
    for start in range(0, len(split), CHUNK):
        images, labels = split.images[start : start + CHUNK], split.labels[start : start + CHUNK]
        filled = np.resize(images, (min(CHUNK, len(split)), *images.shape[1:]))
        right += int((np.asarray(run(state, filled))[: len(labels)] == labels).sum())
    return right / len(split)


def _batches(split: Split, epochs: int, batch_size: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order = rng.permutation(len(split))
        for start in range(0, len(split) - batch_size + 1, batch_size):
            rows = order[start : start + batch_size]
            yield split.images[rows], split.labels[rows]
