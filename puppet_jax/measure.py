"""How a model reads an image: which complexity (eq. 4), and whether depth follows it (eq. 6)."""

import dataclasses
from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from puppet_jax.complexity import Base, Spectrum, complexity
from puppet_jax.schedule import depth

DepthRule = Literal["complexity", "full"]


@dataclasses.dataclass(frozen=True)
class Measure:
    """The measurement that kernels and depth follow. The defaults are the method's; plain data, static under ``jit``.

    Attributes:
        base: of the logarithm in eq. (3): 2 gives bits, ``"e"`` nats. With fewer units of complexity, fewer layers.
        spectrum: ``"log"`` or ``"magnitude"``; see :func:`frequency_map`.
        pixel_weight: the pixels' share in eq. (4); 1 uses pixels only, 0 frequencies only.
        depth: ``"complexity"`` is eq. (6); ``"full"`` gives every image all layers.

    Raises:
        ValueError: an option outside its range.
    """

    base: Base = 2
    spectrum: Spectrum = "log"
    pixel_weight: float | int = 0.5
    depth: DepthRule = "complexity"

    def __post_init__(self):
        for name, choices in (("base", Base), ("spectrum", Spectrum), ("depth", DepthRule)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"Measure: {name} must be one of {get_args(choices)}, got {getattr(self, name)!r}")
        if not 0.0 <= self.pixel_weight <= 1.0:
            raise ValueError(f"Measure: pixel_weight must lie in [0, 1], got {self.pixel_weight}")

    def __call__(
        self, images: Num[Array, "*batch h w c"], max_depth: int
    ) -> tuple[Float[Array, "*batch"], Int[Array, "*batch"]]:
        """Complexity, and depth in [1, ``max_depth``], of images as :func:`complexity` takes them."""
        h = complexity(images, base=self.base, spectrum=self.spectrum, pixel_weight=float(self.pixel_weight))
        d = depth(h, max_depth)
        return h, d if self.depth == "complexity" else jnp.full_like(d, max_depth)
