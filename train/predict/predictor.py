"""A trained model's answers, batch after batch, computed while the caller does something else, on all devices."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh

import puppet_jax as pj
from train.data import padded_batches
from train.devices import BATCH, ROWS, SHARED, on_each_device, rows, shared
from train.errors import UserError


class Outputs(NamedTuple):
    """Of a batch: probabilities ``(B, num_classes)`` float64, complexity in bits ``(B,)``, depth in layers ``(B,)``."""

    probabilities: np.ndarray
    complexity: np.ndarray
    depth: np.ndarray


class Predictor:
    """images ``(B, H, W, C)`` uint8 → :class:`Outputs`.

    By :func:`puppet_jax.compile_predict`. Every device holds the kernels and computes its part of a batch.

    Args:
        model: with trained parameters.
        devices: to use; by default the first.
    """

    def __init__(self, model: pj.PuppetCNN, devices: Sequence[jax.Device] | None = None):
        if sys.stderr.isatty():
            print("compiling ...", file=sys.stderr)  # which takes some seconds
        self._mesh = Mesh(np.array(devices or jax.local_devices()[:1]), (BATCH,))
        self.device_count = self._mesh.size
        predict = pj.compile_predict(model)

        def one_part(arrays, images):
            return lax.all_gather(tuple(predict.with_arrays(arrays)(images)), BATCH, tiled=True)

        # Arrays are an argument: as constants they would be compiled into the program.
        self._arrays = shared(self._mesh, predict.arrays)
        self._run = jax.jit(on_each_device(one_part, self._mesh, (SHARED, ROWS)))

    def start(self, images: np.ndarray, size: int | None = None) -> Any:
        """Dispatch a batch and return before it is computed; ``images`` must not be changed afterwards.

        Args:
            size: to pad the batch to, as each size is compiled separately; by default, a multiple of the devices.

        Returns:
            what :meth:`finish` takes.
        """
        count = len(images)
        size = max(size or count, count)
        filled = next(padded_batches(images, size + -size % self._mesh.size))
        return count, self._run(self._arrays, rows(self._mesh, filled))

    def finish(self, started: Any) -> Outputs:
        """Wait for a batch; refused if its answers are no numbers."""
        count, columns = started
        logits, complexity, depth = (np.asarray(column)[:count] for column in columns)
        if not np.isfinite(logits).all():
            raise UserError("RUN: the model's answers are no numbers, its parameters are of no use; train again")
        shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
        return Outputs(shifted / shifted.sum(-1, keepdims=True), complexity, depth)


def records(outputs: Outputs, class_names: Sequence[str], top: int) -> Iterator[dict[str, Any]]:
    """A record for each image: class, probability, complexity in bits, depth, and the ``top`` most probable classes (of
    equally probable ones the first)."""
    best = np.argsort(-outputs.probabilities, axis=-1, kind="stable")[:, :top]
    columns = best, np.take_along_axis(outputs.probabilities, best, -1), outputs.complexity, outputs.depth
    for classes, probabilities, complexity, depth in zip(*(column.tolist() for column in columns), strict=True):
        each = [{"class": class_names[c], "probability": p} for c, p in zip(classes, probabilities, strict=True)]
        yield {**each[0], "complexity_bits": complexity, "depth": depth, "top": each}
