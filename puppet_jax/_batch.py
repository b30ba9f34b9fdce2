"""A batch through the puppet: which kernels it needs, generated once, and work only to each image's depth.

A kernel depends on the image through its complexity alone. Where complexity is measured to a bin (:class:`Measure`),
all images of a bin share their kernels and their depth: a Puppet-CNN is then a small family of static CNNs that one
puppeteer writes, kept in a bank of one set of kernels for each bin, from which an image chooses by an index.

In training a batch meets a few of them (CIFAR-10, quarters of a bit: 64 images 7 of
32), and only these are generated, in a bank with a fixed number of slots, as programs have fixed shapes. A batch that
meets more bins than there are slots goes through in several passes, each with the next bins and the images in them: the
result is the same, the price some time. Images are sorted by depth and bin, so that a kernel that was read serves all
its images, and images that have left a layer cost nothing in it.
"""

import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Num

from puppet_jax._complexity import as_unit
from puppet_jax._measure import Measure
from puppet_jax._mesh import cond, varying_alike
from puppet_jax.convolution import FactoredBank
from puppet_jax.convolution._lowerings import default_lowering
from puppet_jax.puppeteers import Puppeteer

SLOTS = 16
"""Kernel sets that a batch generates at most at a time, where those that it does not need cost something."""
_SMALL = 1 << 24
"""Numbers in a bank whose sets that are not needed, zeros, cost next to nothing."""


class Bank(NamedTuple):
    """Kernels of each layer, (S, K_h, K_w, C_in, C_out), as the convolution reads them, or their factors.

    Attributes:
        kernels: one array or :class:`FactoredBank` a layer.
        firsts: for each layer, the number of its first set: a layer that only deep images use has none for lesser
            complexities. ``None``: kernels do not depend on complexity, and one set serves every image.
    """

    kernels: tuple[Float[Array, "_ _ _ _ _"] | FactoredBank, ...]
    firsts: tuple[int | Int[Array, ""], ...] | None

    def indices(self, sets: Int[Array, " b"]) -> tuple[Int[Array, " b"], ...]:
        """Where in each layer's kernels an image of set ``sets`` finds its own; −1 where there is none."""
        if self.firsts is None:
            return (jnp.minimum(sets, 0),) * len(self.kernels)
        places = [(sets - first, len(each)) for each, first in zip(self.kernels, self.firsts, strict=True)]
        return tuple(jnp.where((place >= 0) & (place < count), place, -1) for place, count in places)

    def holds(self, sets: Int[Array, " b"]) -> Bool[Array, " b"]:
        """Whether there are kernels for an image of set ``sets``, in all layers that it uses."""
        return jnp.max(jnp.stack(self.indices(sets)), axis=0) >= 0

    def without(self, skipped: tuple[int, ...]) -> "Bank":
        """The same bank without the first ``skipped`` sets of each layer."""
        if self.firsts is None:
            return self
        kernels = tuple(each[skip:] for each, skip in zip(self.kernels, skipped, strict=True))
        return Bank(kernels, tuple(first + skip for first, skip in zip(self.firsts, skipped, strict=True)))


def make_bank(puppeteer: Puppeteer, complexities: Float[Array, " sets"], needed: Int[Array, ""] | None = None) -> Bank:
    """Make the kernels for these complexities, or for the first ``needed`` at least; a single set where they do not
    depend on them."""
    if not puppeteer.conditioned:
        return Bank(puppeteer.bank(complexities[:1]), None)
    kernels = puppeteer.bank(complexities, needed)
    return Bank(kernels, (0,) * len(kernels))


def default_chunk() -> int:
    """Return how many images go through the layers together in prediction: few on CPUs, whose caches should hold their
    maps."""
    if jax.default_backend() != "cpu":
        return 1024
    return max(32, min(os.cpu_count() or 1, 64))


def logits_of_batch(
    forward: Callable[..., Any],
    puppeteer: Puppeteer,
    measurement: Measure,
    images: Num[Array, "b h w c"],
    complexity: Float[Array, " b"],
    depth: Int[Array, " b"],
) -> Any:
    """Return the logits of a batch, its kernels generated; differentiable in all parameters and the images.

    Args:
        forward: the CNN's ``batch``, ``at_exits`` or ``leaving``.
        puppeteer: what makes its kernels.
        measurement: what ``complexity`` was measured by: to bins, or continuously (a kernel set for every image).
        images: uint8, or float in [0, 1].
        complexity: of every image; where it is NaN, so are the logits.
        depth: D of every image.
    """
    if measurement.bin is None or not puppeteer.conditioned:
        bank, own_set = make_bank(puppeteer, complexity), jnp.arange(len(images), dtype=jnp.int32)
        logits = logits_from_bank(forward, bank, images, own_set, depth, len(images))
    else:
        logits = _logits_in_bins(forward, puppeteer, measurement, images, complexity, depth)
    return where_rows(~jnp.isnan(complexity), logits, jnp.nan)


def _logits_in_bins(forward, puppeteer, measurement, images, complexity, depth) -> Any:
    """Return the logits of a batch whose complexity is measured to bins: kernels are generated for those it meets."""
    centres = jnp.asarray(measurement.centres)
    bin_of_image = measurement.index(complexity)
    most_bins = min(len(images), len(centres))
    slots = most_bins if _skips(puppeteer, most_bins) else min(most_bins, SLOTS)
    passes = -(-most_bins // slots)
    # The bins that are met are numbered from 0, in order; those of a number beyond them stand for nothing.
    met = jnp.zeros(len(centres), bool).at[bin_of_image].set(True)
    number = (jnp.cumsum(met) - 1).astype(jnp.int32)[bin_of_image]
    count = jnp.sum(met)
    bins_met = jnp.full(passes * slots, len(centres) // 2).at[number].set(bin_of_image)
    complexities = centres[bins_met].reshape(passes, slots)

    def run(bank, sets, depth):
        return logits_from_bank(forward, bank, images, sets, depth, len(images))

    def in_one_pass():
        return run(make_bank(puppeteer, complexities[0], needed=count), number, depth)

    @jax.checkpoint
    def one_of_several(which, complexities):
        mine = number // slots == which
        logits = run(make_bank(puppeteer, complexities), number % slots, jnp.where(mine, depth, 0))
        return where_rows(mine, logits, 0)

    def in_several_passes():
        def add(total, each):
            return jax.tree.map(jnp.add, total, one_of_several(*each)), None

        zeros = jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), jax.eval_shape(in_one_pass))
        return lax.scan(add, varying_alike(zeros, count)[0], (jnp.arange(passes), complexities))[0]

    return in_one_pass() if passes == 1 else cond(count <= slots, in_one_pass, in_several_passes)


def _skips(puppeteer: Puppeteer, sets: int) -> bool:
    """Tell whether a bank of so many sets costs hardly more than those of them that are needed. Then no second way
    through a batch has to be compiled, for one that meets many bins."""
    numbers = sum(math.prod(shape) for shape in puppeteer.kernel_shapes)
    return puppeteer.skips and default_lowering(jax.default_backend()) == "native" and sets * numbers <= _SMALL


def logits_from_bank(
    forward: Callable[..., Any],
    bank: Bank,
    images: Num[Array, "b h w c"],
    sets: Int[Array, " b"],
    depth: Int[Array, " b"],
    chunk: int,
    lowering: str | None = None,
) -> Any:
    """Return the logits of a batch, in the order given.

    Differentiable in the puppet's parameters, the bank and the images.

    Args:
        forward: as for :func:`logits_of_batch`.
        bank: kernel sets.
        images: uint8, or float in [0, 1].
        sets: the number of each image's set.
        depth: D of every image; 0 marks padding, which costs nothing and whose logits mean nothing.
        chunk: images that go through the layers together, as far as the deepest of them.
        lowering: of the convolutions, see :func:`~puppet_jax.convolution.convolve`.
    """
    batch = len(images)
    chunk = min(chunk, batch)
    # Deepest first, so that the images of a chunk need nearly the same number of layers; padding last.
    order = jnp.lexsort((sets, -depth))
    rows = jnp.pad(order, (0, -batch % chunk)).reshape(-1, chunk)
    filling = (jnp.arange(rows.size) >= batch).reshape(rows.shape)

    def one_chunk(chosen):
        rows, filling = chosen
        depths = jnp.where(filling, 0, depth[rows])
        return forward(as_unit(images[rows]), bank.indices(sets[rows]), bank.kernels, depths, rows, lowering)

    several = len(rows) > 1
    logits = lax.map(one_chunk, (rows, filling)) if several else one_chunk((rows[0], filling[0]))

    def in_order(logits):
        logits = logits.reshape(rows.size, *logits.shape[rows.ndim :])[:batch] if several else logits[:batch]
        return jnp.zeros_like(logits).at[order].set(logits)

    return jax.tree.map(in_order, logits)


def where_rows(chosen: Bool[Array, " b"], output: Any, other: float | int) -> Any:
    """Return a puppet's output for the images that are chosen, ``other`` for the rest (0 in arrays of integers)."""

    def of(rows):
        value = other if jnp.issubdtype(rows.dtype, jnp.inexact) else 0
        return jnp.where(chosen.reshape(-1, *[1] * (rows.ndim - 1)), rows, jnp.asarray(value, rows.dtype))

    return jax.tree.map(of, output)
