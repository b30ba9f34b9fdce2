"""How a model reads an image: which complexity (eq. 4), how finely, and whether depth follows it (eq. 6)."""

import dataclasses
import math
from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Num

from puppet_jax._complexity import Base, Spectrum, complexity
from puppet_jax._named_function import named_function
from puppet_jax._schedule import depth

DepthRule = Literal["complexity", "full"]
MOST_BITS = 8
"""The entropy of 256 levels is at most 8 bits, and so is complexity."""


@dataclasses.dataclass(frozen=True)
class Measure:
    """The measurement that kernels and depth follow. Plain data, static under ``jit``.

    Complexity is measured to a *bin*: bin k holds k·bin <= H < (k + 1)·bin, and the centre of an image's bin replaces H
    before step size, depth, initial value and kernels follow from it. So all images of a bin share depth and kernels.
    It is part of the model's definition, the same in training and inference: nothing is approximated by it.

    Attributes:
        base: of the logarithm in eq. (3): 2 gives bits, ``"e"`` nats. With fewer units of complexity, fewer layers.
        spectrum: ``"log"`` or ``"magnitude"``; see :func:`frequency_map`.
        pixel_weight: the pixels' share in eq. (4); 1 uses pixels only, 0 frequencies only.
        depth: ``"complexity"`` is eq. (6); an integer is added to it: with -1 every image takes a layer less, for less
            work; ``"full"`` gives every image all layers.
        bin: width of the bins, in bits (nats with ``base="e"``), above 0 and at most 8; ``None`` is the paper's
            continuous H, for which kernels are generated for every image.
        function: a measure of your own in place of eqs. (1) to (4), as ``"module:function"`` from images
            (*batch, H, W, C) to H in [0, 8], (*batch,).

    Raises:
        ValueError: an option outside its range.
    """

    base: Base = 2
    spectrum: Spectrum = "log"
    pixel_weight: float | int = 0.5
    depth: DepthRule | int = "complexity"
    bin: float | int | None = 0.25
    function: str | None = None

    def __post_init__(self):
        for name, choices in (("base", Base), ("spectrum", Spectrum)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"Measure: {name} must be one of {get_args(choices)}, got {getattr(self, name)!r}")
        whole = type(self.depth) is int and -MOST_BITS <= self.depth <= MOST_BITS
        if self.depth not in get_args(DepthRule) and not whole:
            choices = f"one of {get_args(DepthRule)} or an integer from -{MOST_BITS} to {MOST_BITS}"
            raise ValueError(f"Measure: depth must be {choices}, got {self.depth!r}")
        if not 0.0 <= self.pixel_weight <= 1.0:
            raise ValueError(f"Measure: pixel_weight must lie in [0, 1], got {self.pixel_weight}")
        if self.function is not None:
            named_function(self.function)
        if self.bin is not None and not 0 < self.bin <= MOST_BITS:
            raise ValueError(
                f"Measure: bin must be above 0 and at most {MOST_BITS}, got {self.bin}; use None for continuous H"
            )

    @property
    def centres(self) -> np.ndarray:
        """The complexity that stands for each bin, (K,) float32: its middle, of the last one within what H can be.

        Raises:
            ValueError: there are no bins.
        """
        width = self.width
        most = MOST_BITS if self.base == 2 else MOST_BITS * math.log(2)
        begins = np.arange(math.ceil(most / width)) * width
        return ((begins + np.minimum(begins + width, most)) / 2).astype(np.float32)

    def index(self, h: Float[Array, "*batch"]) -> Int[Array, "*batch"]:
        """The bin of each complexity, int32, from 0.

        Raises:
            ValueError: there are no bins.
        """
        last = len(self.centres) - 1
        return jnp.clip(jnp.floor(h / self.width), 0, last).astype(jnp.int32)

    @property
    def width(self) -> float:
        """Of a bin.

        Raises:
            ValueError: there are no bins.
        """
        if self.bin is None:
            raise ValueError("Measure: there are no bins with bin=None; measure to a bin, such as bin=0.25")
        return float(self.bin)

    def __call__(
        self, images: Num[Array, "*batch h w c"], max_depth: int
    ) -> tuple[Float[Array, "*batch"], Int[Array, "*batch"]]:
        """Complexity, to the bin's centre, and depth in [1, ``max_depth``], of images as :func:`complexity` takes
        them."""
        if self.function is None:
            h = complexity(images, base=self.base, spectrum=self.spectrum, pixel_weight=float(self.pixel_weight))
        else:
            h = named_function(self.function)(images)
        if self.bin is not None:
            h = jnp.asarray(self.centres)[self.index(h)]
        return h, self.depth_of(h, max_depth)

    def depth_of(self, h: Float[ArrayLike, "*batch"], max_depth: int) -> Int[Array, "*batch"]:
        """The depth in [1, ``max_depth``] that goes with each complexity."""
        if self.depth == "full":
            return jnp.full(jnp.shape(h), max_depth, jnp.int32)
        return jnp.clip(depth(h) + (0 if self.depth == "complexity" else self.depth), 1, max_depth)
