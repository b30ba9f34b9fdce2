"""A trained model's answers, batch after batch, on all devices."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh

import puppet_jax as pj
from train.data import padded_batches
from train.devices import BATCH, ROWS, SHARED, on_each_device, rows, shared
from train.errors import UserError
from train.telling import compiling


class Predictor:
    """images ``(B, H, W, C)`` uint8 → :class:`puppet_jax.Prediction`, by :func:`puppet_jax.compile_predict`.

    Every one of the ``devices`` (by default the first) holds the kernels and computes its part of a batch. A model
    whose images are neither grey nor colour is refused.
    """

    def __init__(self, predict: pj.Predictor, devices: Sequence[jax.Device] | None = None):
        height, width, channels = predict.image_shape or (0, 0, 0)
        self.classes, self.image_shape = predict.classes or (), (height, width, channels)
        if self.image_shape[2] not in (1, 3):
            raise UserError(f"RUN: the model takes {self.image_shape[2]} channels, expected 1 (grey) or 3 (colour)")
        self._mesh = Mesh(np.array(devices or jax.local_devices()[:1]), (BATCH,))
        self.device_count = self._mesh.size

        def one_part(arrays, images):
            return lax.all_gather(tuple(predict.with_arrays(arrays)(images)), BATCH, tiled=True)

        # Arrays are an argument: as constants they would be compiled into the program.
        self._arrays = shared(self._mesh, predict.arrays)
        self._run = jax.jit(on_each_device(one_part, self._mesh, (SHARED, ROWS)))
        self._compiled = False

    def __call__(self, images: np.ndarray, size: int | None = None) -> pj.Prediction:
        """Predict a batch, padded to ``size``, as each is compiled separately."""
        count = len(images)
        size = max(size or count, count)
        filled = next(padded_batches(images, size + -size % self._mesh.size))
        with contextlib.nullcontext() if self._compiled else compiling("the prediction", log=False):
            answer = self._run(self._arrays, rows(self._mesh, filled))
        self._compiled = True
        logits, complexity, depth = (np.asarray(column)[:count] for column in answer)
        if not np.isfinite(logits).all():
            raise UserError("RUN: the model's answers are no numbers, its parameters are of no use; train again")
        return pj.Prediction(logits, complexity, depth, self.classes)


def records(prediction: pj.Prediction, top: int) -> Iterator[dict[str, Any]]:
    """A record for each image: class, probability, complexity in bits, depth, and the ``top`` most probable classes (of
    equally probable ones the first)."""
    columns = prediction.top(top), prediction.complexity.tolist(), prediction.depth.tolist()
    for best, complexity, depth in zip(*columns, strict=True):
        each = [{"class": name, "probability": p} for name, p in best]
        yield {**each[0], "complexity_bits": complexity, "depth": depth, "top": each}
