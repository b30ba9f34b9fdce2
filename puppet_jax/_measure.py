"""How a model reads an image: which complexity (eq. 4), how finely, and whether depth follows it (eq. 6)."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Num

from puppet_jax._complexity import complexity, depth
from puppet_jax._named_function import named_function

DepthRule = Literal["complexity", "full"]
MOST_BITS = 8
"""The entropy of 256 levels is at most 8 bits, and so is complexity."""
_ROUNDING = 1e-3


@dataclasses.dataclass(frozen=True)
class Measure:
    """The measurement that kernels and depth follow. Plain data, static under ``jit``.

    Complexity is measured to a *bin*: bin k holds k·bin <= H < (k + 1)·bin, and the centre of an image's bin replaces H
    before step size, depth, initial value and kernels follow from it. So all images of a bin share depth and kernels.
    It is part of the model's definition, the same in training and inference: nothing is approximated by it.

    Attributes:
        depth: ``"complexity"`` is eq. (6), ``"full"`` gives every image all layers, an integer so many. Where a puppet
            has exits, it is the next of them.
        bin: width of the bins in bits, above 0 and at most 8; ``None`` is the paper's continuous H, for which kernels
            are generated for every image.
        function: a measure of your own in place of eqs. (1) to (4), as ``"module:function"`` from images
            (*batch, H, W, C) to H in [0, 8], (*batch,). It is imported here: two measurements are equal if it is the
            same function, not only of the same name.

    Raises:
        ValueError: an option outside its range.
    """

    depth: DepthRule | int = "complexity"
    bin: float | int | None = 0.25
    function: str | None = None
    _imported: Callable[..., Any] | None = dataclasses.field(default=None, init=False, repr=False)

    def __post_init__(self):
        if isinstance(self.depth, np.integer):
            object.__setattr__(self, "depth", int(self.depth))
        if self.depth not in get_args(DepthRule) and not (type(self.depth) is int and self.depth >= 1):
            choices = f"one of {get_args(DepthRule)} or a number of layers, 1 or more"
            raise ValueError(f"Measure: depth must be {choices}, got {self.depth!r}")
        if self.bin is not None and not 0 < self.bin <= MOST_BITS:
            raise ValueError(
                f"Measure: bin must be above 0 and at most {MOST_BITS}, got {self.bin}; use None for continuous H"
            )
        object.__setattr__(self, "_imported", None if self.function is None else named_function(self.function))

    @property
    def centres(self) -> np.ndarray:
        """The complexity that stands for each bin, (K,) float32: its middle, of the last one within what H can be."""
        begins = np.arange(math.ceil(MOST_BITS / self.width)) * self.width
        return ((begins + np.minimum(begins + self.width, MOST_BITS)) / 2).astype(np.float32)

    @property
    def width(self) -> float:
        """The width of a bin; here as in all that needs bins, ``ValueError`` if there are none."""
        if self.bin is None:
            raise ValueError("Measure: there are no bins with bin=None; measure to a bin, such as bin=0.25")
        return float(self.bin)

    def index(self, h: Float[Array, "*batch"]) -> Int[Array, "*batch"]:
        """Return the bin of each complexity, int32, from 0; −1 for NaN."""
        index = jnp.clip(jnp.floor(h / self.width), 0, len(self.centres) - 1)
        return jnp.where(jnp.isnan(h), -1, index).astype(jnp.int32)

    def __call__(
        self, images: Num[Array, "*batch h w c"], depths: tuple[int, ...]
    ) -> tuple[Float[Array, "*batch"], Int[Array, "*batch"]]:
        """Return the complexity, to the bin's centre, and the depth, one of ``depths``, of images.

        What cannot be measured, such as floats outside [0, 1], has complexity NaN under ``jit``, and the least depth.

        Raises:
            TypeError, ValueError: images that :func:`complexity` refuses; a function that gives another shape, or
                concrete values that are not in [0, 8].
        """
        h = complexity(images) if self.function is None else self.measured(images)
        if self.bin is not None:
            h = jnp.where(jnp.isnan(h), h, jnp.asarray(self.centres)[self.index(h)])
        return h, self.depth_of(h, depths)

    def depth_of(self, h: Float[ArrayLike, "*batch"], depths: tuple[int, ...]) -> Int[Array, "*batch"]:
        """Return the depth that goes with each complexity: the least of ``depths`` that reaches it, or the last."""
        if self.depth != "complexity":
            asked = depths[-1] if self.depth == "full" else self.depth
            return jnp.full(jnp.shape(h), next((each for each in depths if each >= asked), depths[-1]), jnp.int32)
        of_image, found = depth(h), jnp.full(jnp.shape(h), depths[0], jnp.int32)
        for passed, following in itertools.pairwise(depths):
            found = jnp.where(of_image > passed, following, found)
        return found

    def measured(self, images: Num[Array, "*batch h w c"]) -> Float[Array, "*batch"]:
        """Return what the user's function measures; NaN for what is not in [0, 8]."""
        assert self._imported is not None
        h = jnp.asarray(self._imported(images), jnp.float32)
        if h.shape != images.shape[:-3]:
            raise ValueError(
                f"Measure: {self.function} gives shape {h.shape} for images {images.shape}, expected "
                f"{images.shape[:-3]}: one complexity for each image"
            )
        inside = (h >= -_ROUNDING) & (h <= MOST_BITS + _ROUNDING)
        if not isinstance(inside, jax.core.Tracer) and not inside.all():
            raise ValueError(
                f"Measure: {self.function} gives values from {float(h.min()):g} to {float(h.max()):g}, expected "
                f"complexities from 0 to {MOST_BITS}"
            )
        return jnp.where(inside, jnp.clip(h, 0, MOST_BITS), jnp.nan)
