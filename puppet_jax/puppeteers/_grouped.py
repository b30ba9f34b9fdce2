"""Continuous puppeteers for layers of very different widths, their sizes solved for from a number of parameters."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Real

from puppet_jax.puppeteers._base import Puppeteer
from puppet_jax.puppeteers._continuous import ContinuousPuppeteer
from puppet_jax.puppeteers._kernels import Kernels, KernelShape

SIZES = ("basis", "rank", "hidden")
"""Options of :class:`ContinuousPuppeteer` that are solved for."""


class GroupedPuppeteer(Puppeteer):
    """A :class:`ContinuousPuppeteer` for each group of layers of like widths, so that a layer does not pay for the
    widest one. Together they store at most a ``compression``-th of the kernels' parameters.

    Layers whose C_out and C_in lie between the same powers of two are a group, and each group gets a ``compression``-th
    of its own kernels' parameters; one that is too small for that joins the group of the nearest widths. Of a group's
    parameters at most a quarter go to its network. It has as many matrices as its layers have taps, from 8 to 64, of
    the rank that is then left; or whole matrices, where that costs less.

    Args:
        kernel_shapes: (C_out, C_in, K_h, K_w) of each layer.
        compression: kernel parameters of the static twin over those stored, at least.
        options: of :class:`ContinuousPuppeteer`, but for its sizes.
        rngs: Flax random streams; ``params`` is used.

    Attributes:
        groups: the layers of each group, from 0.
        sizes: of each group, in words.

    Raises:
        ValueError: malformed shapes or an option outside its range.
    """

    skips = True

    def __init__(
        self, kernel_shapes: Sequence[KernelShape], *, compression: float | int, rngs: nnx.Rngs, **options: Any
    ):
        super().__init__(kernel_shapes)
        if not compression > 0:
            raise ValueError(f"compression must be positive, got {compression}; 10 stores a tenth of the kernels")
        solved = _solve(self.kernel_shapes, compression)
        self.groups = tuple(group for group, _ in solved)
        self.parts: nnx.List[ContinuousPuppeteer] = nnx.List([])
        for group, sizes in solved:
            shapes, numbers = [self.kernel_shapes[i] for i in group], [i + 1 for i in group]
            self.parts.append(ContinuousPuppeteer(shapes, numbers=numbers, **sizes, **options, rngs=rngs))
        self.conditioned = any(part.conditioned for part in self.parts)

    @property
    def sizes(self) -> tuple[str, ...]:
        return tuple(text for part in self.parts for text in part.sizes)

    def __call__(self, h: Real[ArrayLike, ""]) -> Kernels:
        """Make the kernels of one image."""
        return self._in_order(part(h) for part in self.parts)

    def bank(self, complexities: Float[Array, " sets"], needed: Int[Array, ""] | None = None) -> tuple[Any, ...]:
        """Make the kernels of images of these complexities, as :meth:`ContinuousPuppeteer.bank` does."""
        return self._in_order(part.bank(complexities, needed) for part in self.parts)

    def _in_order(self, of_parts: Iterable[tuple[Any, ...]]) -> tuple[Any, ...]:
        made = [
            pair for group, part in zip(self.groups, of_parts, strict=True) for pair in zip(group, part, strict=True)
        ]
        return tuple(of_layer for _, of_layer in sorted(made, key=lambda pair: pair[0]))


def _solve(shapes: Sequence[KernelShape], compression: float | int) -> list[tuple[tuple[int, ...], dict[str, Any]]]:
    """Group the layers, and choose the sizes of each group's puppeteer."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, (c_out, c_in, _, _) in enumerate(shapes):
        groups.setdefault((math.ceil(math.log2(c_out)), math.ceil(math.log2(c_in))), []).append(i)

    def budget(group):
        return sum(math.prod(shapes[i]) for i in group) / compression

    def sizes(group):
        return _sizes([shapes[i] for i in group], budget(group))

    while len(groups) > 1:
        small = min(
            (key for key in groups if sizes(groups[key]) is None), key=lambda k: budget(groups[k]), default=None
        )
        if small is None:
            break
        _, _, near = min(
            (abs(key[0] - small[0]) + abs(key[1] - small[1]), -budget(groups[key]), key)
            for key in groups
            if key != small
        )
        joined = sorted(groups.pop(small) + groups.pop(near))
        groups.setdefault((max(small[0], near[0]), max(small[1], near[1])), []).extend(joined)
    least = {"basis": 2, "rank": 1, "hidden": 4}
    return sorted((tuple(sorted(group)), sizes(group) or least) for group in groups.values())


def _sizes(shapes: Sequence[KernelShape], budget: float) -> dict[str, Any] | None:
    """Choose the sizes of one puppeteer with at most so many parameters; ``None`` if even the smallest has more."""
    c_out, c_in = (max(shape[axis] for shape in shapes) for axis in range(2))
    most = min(64, max(8, sum(math.prod(shape[2:]) for shape in shapes)))
    for basis in sorted({most, 32, 16, 8, 4} & set(range(most + 1)), reverse=True):
        for hidden in (64, 48, 32, 24, 16, 8):
            inner = 4 * hidden
            left = budget - inner - hidden * basis
            rank = int(left // (basis * (c_out + c_in)))
            if inner + hidden * basis > budget / 4 or rank < 1:
                continue
            if rank * (c_out + c_in) < c_out * c_in:
                return {"basis": basis, "rank": rank, "hidden": hidden}
            whole = min(int((budget - inner) // (c_out * c_in + hidden)), 64)
            return {"basis": whole, "rank": None, "hidden": hidden}
    return None
