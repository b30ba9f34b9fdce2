"""What a model stores, by group, beside what its static twin would, and what an image costs it."""

import dataclasses
import math

import jax
from flax import nnx

from puppet_jax._cost import cost
from puppet_jax._model import PuppetCNN


@dataclasses.dataclass(frozen=True)
class Summary:
    """Numbers of stored parameters. ``str(summary)`` is a table.

    Attributes:
        generator: parameters of the puppeteer, from which all convolution kernels are made.
        normalisation: scales and shifts of the puppet.
        head: the classifier; of a puppetized model everything else that is stored, such as biases.
        static_kernels: kernels that the static twin, the same puppet with one stored kernel a layer, stores instead of
            the generator.
        sizes: what the puppeteer consists of, a line for each group of layers; empty if it does not say.
        int8_bytes: of the parameters as ``int8`` stores them, with a scale for each row, what has one axis in float16.
        multiplications: of one image at full depth, its kernels given, in convolutions and matrix products, as they are
            computed: of factored layers three thin convolutions; not fewer for Winograd's filtering. 0 where the
            model's ``image_shape`` is not known.
        map_numbers: numbers in the largest two maps that are then alive at once, while one is computed from another.
    """

    generator: int
    normalisation: int
    head: int
    static_kernels: int
    sizes: tuple[str, ...] = ()
    int8_bytes: int = 0
    multiplications: int = 0
    map_numbers: int = 0

    @property
    def total(self) -> int:
        """All stored parameters."""
        return self.generator + self.normalisation + self.head

    @property
    def static_twin(self) -> int:
        """All stored parameters of the static twin."""
        return self.static_kernels + self.normalisation + self.head

    @property
    def compression(self) -> float:
        """Static twin's parameters over this model's, everything counted."""
        return self.static_twin / self.total

    @property
    def kernel_compression(self) -> float:
        """Static twin's kernel parameters over the generator's."""
        return self.static_kernels / max(self.generator, 1)

    def __str__(self) -> str:
        rows = [
            ("", "stored", "static twin"),
            ("kernels", f"{self.generator:,}", f"{self.static_kernels:,}"),
            ("normalisation", f"{self.normalisation:,}", f"{self.normalisation:,}"),
            ("head", f"{self.head:,}", f"{self.head:,}"),
            ("total", f"{self.total:,}", f"{self.static_twin:,}"),
        ]
        lines = [f"{name:<14}{ours:>12}{twin:>14}" for name, ours, twin in rows]
        ratios = f"kernels {self.kernel_compression:.1f}x smaller, in all {self.compression:.1f}x"
        stored = f"stored in {4 * self.total:,} bytes as float32, {self.int8_bytes:,} as int8"
        return "\n".join([*lines, ratios, *self.sizes, stored, *self.costs])

    @property
    def costs(self) -> tuple[str, ...]:
        """What one image costs, in two lines; none where that is not known."""
        products = f"{self.multiplications:,} multiplications an image in convolutions and products, at full depth"
        maps = f"largest two maps at once {4 * self.map_numbers:,} bytes as float32, {self.map_numbers:,} as int8"
        return (products, maps) if self.multiplications else ()


def summary(model: PuppetCNN) -> Summary:
    """Count a model's stored parameters by group, and what an image costs it, where ``image_shape`` is known.

    Raises:
        TypeError: ``model`` is not a :class:`PuppetCNN`.
    """
    if not isinstance(model, PuppetCNN):
        raise TypeError(f"summary: model must be a PuppetCNN, got {type(model).__name__}")
    puppet, shape, stored = model.puppet, model.image_shape, jax.tree.leaves(nnx.state(model, nnx.Param))
    multiplications, map_numbers = (0, 0) if shape is None else cost(model, shape)
    normalisation = puppet.normalisation_count()
    return Summary(
        generator=_count(nnx.state(model.puppeteer, nnx.Param)),
        normalisation=normalisation,
        head=_count(nnx.state(puppet, nnx.Param)) - normalisation,
        static_kernels=sum(math.prod(shape) for shape in puppet.kernel_shapes),
        sizes=model.puppeteer.sizes,
        int8_bytes=sum(leaf.size + 2 * leaf.shape[0] if leaf.ndim > 1 else 2 * leaf.size for leaf in stored),
        multiplications=multiplications,
        map_numbers=map_numbers,
    )


def _count(state) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state))
