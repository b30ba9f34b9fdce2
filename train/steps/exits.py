"""What a model with exits gives for how much work: its accuracy at each exit, and where images leave by confidence."""

from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh

import puppet_jax as pj
from puppet_jax._cost import cost
from train.data import Split
from train.devices import BATCH, ROWS, on_each_device
from train.steps.evaluation import batches, columns

CONFIDENCES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
# Of the expected calibration error (Guo et al. 2017, arXiv:1706.04599).
CALIBRATION_BINS = 15


def at_exits(model: pj.PuppetCNN, split: Split, batch_size: int, mesh: Mesh) -> np.ndarray:
    """Logits of every image at every exit, (N, E, num_classes)."""
    one_batch = lambda images: (lax.all_gather(model.at_exits(images), BATCH, tiled=True),)  # noqa: E731
    run = jax.jit(on_each_device(one_batch, mesh, (ROWS,)))
    return columns(map(run, batches(split.images, batch_size, mesh)), len(split))[0]


def dial(model: pj.PuppetCNN, logits: np.ndarray, split: Split) -> dict[str, list[dict[str, Any]]]:
    """Tables of exits and of confidences, with accuracy and with multiplications an image."""
    depths = np.array(model.puppet.depths)
    work = np.array([cost(model, split.images.shape[1:], depth)[0] for depth in depths.tolist()])
    sure = np.asarray(jax.nn.softmax(logits, axis=-1)).max(-1)
    correct = logits.argmax(-1) == split.labels[:, None]
    exits = [
        {
            "depth": depth,
            "multiplications": int(work[place]),
            "accuracy": float(correct[:, place].mean()),
            "calibration_error": _calibration_error(sure[:, place], correct[:, place]),
        }
        for place, depth in enumerate(depths.tolist())
    ]
    confidences = []
    for confidence in CONFIDENCES if model.puppet.in_one_pass else ():
        # The first exit that is sure; all are at the last.
        left = np.argmax((sure >= confidence) | (depths == depths[-1]), axis=1)
        told = {"confidence": confidence, "multiplications": float(work[left].mean())}
        told |= {"accuracy": float(correct[np.arange(len(left)), left].mean()), "depth": float(depths[left].mean())}
        confidences.append(told)
    return {"accuracy_by_exit": exits, "accuracy_by_confidence": confidences}


def _calibration_error(sure: np.ndarray, correct: np.ndarray) -> float:
    """The mean distance of accuracy from confidence, over bins of confidence."""
    bins = np.minimum((sure * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    met = [bins == each for each in np.unique(bins)]
    return float(sum(abs(sure[each].mean() - correct[each].mean()) * each.mean() for each in met))
