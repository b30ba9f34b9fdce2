"""What predictors have in common, compiled here or loaded from a file: their answers, and what they take."""

import dataclasses
import operator
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Num

from puppet_jax._complexity import check_batch
from puppet_jax._pictures import fitted


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """What a predictor returns, one row for each image, in the order given; of one image, its row. It unpacks:
    ``logits, complexity, depth = prediction``.

    Attributes:
        logits: float32, (B, num_classes); of a puppetized model whatever it returns, with the batch's axis first.
        complexity: float32, (B,), bits: of the centre of each image's bin, where it is measured to bins.
        depth: int32, (B,), D: the number of layers that each image went through, in a plain puppet.
        classes: a name for each logit, or ``None`` where they are not known.
    """

    logits: Any
    complexity: Any
    depth: Any
    classes: tuple[str, ...] | None = dataclasses.field(default=None, metadata={"static": True})

    def __iter__(self) -> Iterator[Any]:
        return iter((self.logits, self.complexity, self.depth))

    @property
    def probabilities(self) -> jax.Array:
        """Softmax of the logits, (B, num_classes).

        Raises:
            ValueError: the model returns something else than logits.
        """
        if not isinstance(self.logits, jax.Array | np.ndarray) or self.logits.ndim > 2:
            raise ValueError("probabilities: the model returns no logits; see .logits for what it does return")
        return jax.nn.softmax(self.logits, axis=-1)

    def top(self, k: int = 1) -> list:
        """The ``k`` most probable classes of each image: a list of (name, probability), the most probable first; a
        number in place of a name where names are not known."""
        rows = np.atleast_2d(np.asarray(self.probabilities))
        names = self.classes or range(rows.shape[-1])
        best = np.argsort(-rows, axis=-1, kind="stable")[:, :k]
        told = [[(names[i], float(row[i])) for i in order] for row, order in zip(rows, best, strict=True)]
        return told if self.logits.ndim == 2 else told[0]


jax.tree_util.register_dataclass(Prediction)


class TakesPictures:
    """What predictors have in common: batches of any size, and pictures of any size."""

    classes: tuple[str, ...] | None
    image_shape: tuple[int, ...] | None
    complexities: tuple[float, float] | None
    dtype = "uint8"
    _largest_batch: int
    _whole = False  # whether there are kernels for every complexity

    def __call__(self, images: Num[ArrayLike, "*batch h w c"]) -> Prediction:
        """Predict one image (H, W, C) or a batch (B, H, W, C), uint8 or float in [0, 1]. Works under ``jit`` too.

        Raises:
            TypeError: the dtype is neither uint8 nor floating, or not what a file is for.
            ValueError: another rank, an empty batch, NaN or values outside [0, 1] (checked on concrete arrays), a shape
                that the model does not take, or an image of a complexity that there are no kernels for (under ``jit``
                its logits are NaN).
        """
        images = check_batch(images, "predict")
        self._check(images)
        return self._answer(images)

    def __repr__(self) -> str:
        size = "of any size" if self.image_shape is None else "×".join(map(str, self.image_shape))
        names = "" if self.classes is None else f", {len(self.classes)} classes"
        held = " for {:g} to {:g} bits".format(*self.complexities) if self.complexities else " generated for each"
        return f"<{type(self).__name__}: images {size}{names}, kernels{held}>"

    def _check(self, images: Array) -> None:
        """Refuse images that the model does not take."""
        raise NotImplementedError

    def _run(self, images: Array, count: int) -> Prediction:
        """The answers to a batch, of which ``count`` rows matter."""
        raise NotImplementedError

    def _answer(self, images: Array) -> Prediction:
        """The answers to images that were checked, padded to powers of two and split."""
        if images.ndim == 3:
            return jax.tree.map(lambda rows: rows[0], self._answer(images[None]))
        if isinstance(images, jax.core.Tracer):
            return self._run(images, len(images))
        parts = []
        for start in range(0, len(images), self._largest_batch):
            part = images[start : start + self._largest_batch]
            missing = (1 << (len(part) - 1).bit_length()) - len(part)
            rows = self._run(jnp.pad(part, ((0, missing), *[(0, 0)] * 3)) if missing else part, len(part))
            parts.append(jax.tree.map(operator.itemgetter(slice(len(part))), rows) if missing else rows)
        found = parts[0] if len(parts) == 1 else jax.tree.map(lambda *rows: jnp.concatenate(rows), *parts)
        if self.complexities and not self._whole:
            (low, high), h = self.complexities, np.asarray(found.complexity)
            outside = (h < low) | (h > high)
            if outside.any():
                raise ValueError(
                    f"predict: image {int(outside.argmax())} has a complexity near {h[outside][0]:.3g}, there are "
                    f"kernels for {low:g} to {high:g}; call compile_predict with wider complexities, or None for all"
                )
        return found

    def predict_images(self, pictures: Any) -> Prediction:
        """Predict pictures of any size, which are scaled as ``python -m train`` scales a folder's.

        ``pictures`` are a Pillow image, levels (H, W) or (H, W, C) as uint8, or several of these. An image is turned as
        its EXIF orientation says, what is transparent in it lies over white, and it becomes grey or RGB as the model
        wants it. It is scaled so that it just covers the model's size (bicubic), and its middle cut out.

        Raises:
            TypeError: an array of another dtype.
            ValueError: an array that is no picture; no picture at all; or ``image_shape`` is not known.
            ImportError: Pillow is missing, which scales them.
        """
        if self.image_shape is None:
            raise ValueError(
                "predict_images: the model does not know which size its images have; set model.image_shape = (height, "
                "width, channels) before compile_predict(model)"
            )
        one = hasattr(pictures, "convert") or getattr(pictures, "ndim", 4) < 4
        levels = [fitted(each, tuple(self.image_shape)) for each in ([pictures] if one else pictures)]
        if not levels:
            raise ValueError("predict_images: got no picture, at least one is needed")
        images = np.stack(levels) if self.dtype == "uint8" else np.stack(levels) / np.float32(255)
        return self(images[0] if one else images)
