"""A batch through the puppet: which kernels it needs, generated once, and work only to each image's depth.

A batch of a model whose complexity is measured to bins meets a few of them (CIFAR-10, quarters of a bit: 64 images 7 of
32), and only these are generated, in a bank with a fixed number of slots, as programs have fixed shapes. A batch that
meets more bins than there are slots goes through in several passes, each with the next bins and the images in them: the
result is the same, the price some time. Images are sorted by depth and bin, so that a kernel that was read serves all
its images, and images that have left a layer cost nothing in it.
"""

import os
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Num

from puppet_jax._bank import Bank, make_bank
from puppet_jax._images import as_unit
from puppet_jax._measure import Measure
from puppet_jax.convolution._factored import joined
from puppet_jax.puppeteers import Puppeteer
from puppet_jax.puppets import Puppet

SLOTS = 16
"""Kernel sets that a batch generates at most at a time."""


def default_chunk() -> int:
    """Images that go through the layers together in prediction: few on CPUs, whose caches should hold their maps."""
    if jax.default_backend() != "cpu":
        return 1024
    return max(32, min(os.cpu_count() or 1, 64))


def logits_of_batch(
    puppet: Puppet,
    puppeteer: Puppeteer,
    measurement: Measure,
    images: Num[Array, "b h w c"],
    complexity: Float[Array, " b"],
    depth: Int[Array, " b"],
) -> Any:
    """Logits of a batch, its kernels generated; differentiable in all parameters and the images.

    Args:
        puppet: the CNN.
        puppeteer: what makes its kernels.
        measurement: what ``complexity`` was measured by: to bins, or continuously (a kernel set for every image).
        images: uint8, or float in [0, 1].
        complexity: of every image.
        depth: D of every image.
    """
    batch = len(images)
    run = lambda bank, sets, depth: logits_from_bank(puppet, bank, images, sets, depth, batch)  # noqa: E731
    if measurement.bin is None or not puppeteer.conditioned:
        return run(make_bank(puppeteer, complexity), jnp.arange(batch, dtype=jnp.int32), depth)
    centres = jnp.asarray(measurement.centres)
    place = measurement.index(complexity)
    most = min(batch, len(centres))
    slots = min(most, SLOTS)
    present = jnp.zeros(len(centres), bool).at[place].set(True)
    slot_of = (jnp.cumsum(present) - 1).astype(jnp.int32)
    slot = slot_of[place]
    passes = -(-most // slots)
    (filled,) = jnp.nonzero(present, size=passes * slots, fill_value=len(centres) // 2)
    at = centres[filled].reshape(passes, slots)

    def once():
        return run(_bank_in_halves(puppeteer, at[0], jnp.sum(present)), slot, depth)

    @jax.checkpoint
    def one_pass(number, complexities):
        mine = slot // slots == number
        logits = run(make_bank(puppeteer, complexities), slot % slots, jnp.where(mine, depth, 0))
        return where_rows(mine, logits, 0)

    def several():
        add = lambda total, each: (jax.tree.map(jnp.add, total, one_pass(*each)), None)  # noqa: E731
        nothing = jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), jax.eval_shape(once))
        return lax.scan(add, nothing, (jnp.arange(passes), at))[0]

    return once() if passes == 1 else lax.cond(jnp.sum(present) <= slots, once, several)


def _bank_in_halves(puppeteer: Puppeteer, complexities: Float[Array, " slots"], needed: Int[Array, ""]) -> Bank:
    """A bank of which at least the first ``needed`` sets are generated: the second half, only if one of it is needed.

    No loop over parts: its gradient would store, for every part, all that the generation of one needs.
    """
    half = -(-len(complexities) // 2)
    make = lambda at: make_bank(puppeteer, at).kernels  # noqa: E731
    first, rest = make(complexities[:half]), complexities[half:]
    if not len(rest):
        return Bank(first, (0,) * len(first))
    nothing = lambda _: jax.tree.map(jnp.zeros_like, tuple(kernels[: len(rest)] for kernels in first))  # noqa: E731
    second = lax.cond(needed > half, make, nothing, rest)
    return Bank(tuple(map(joined, first, second)), (0,) * len(first))


def logits_from_bank(
    puppet: Puppet,
    bank: Bank,
    images: Num[Array, "b h w c"],
    sets: Int[Array, " b"],
    depth: Int[Array, " b"],
    chunk: int,
    lowering: str | None = None,
) -> Any:
    """Logits of a batch, in the order given; differentiable in the puppet's parameters, the bank and the images.

    Args:
        puppet: the CNN.
        bank: kernel sets.
        images: uint8, or float in [0, 1].
        sets: the number of each image's set.
        depth: D of every image; 0 marks padding, which costs nothing and whose logits mean nothing.
        chunk: images that go through the layers together, as far as the deepest of them.
        lowering: of the convolutions, see :func:`~puppet_jax.convolution._convolve.convolve`.
    """
    batch = len(images)
    chunk = min(chunk, batch)
    # Deepest first, so that the images of a chunk need nearly the same number of layers; padding last.
    order = jnp.lexsort((sets, -depth))
    rows = jnp.pad(order, (0, -batch % chunk)).reshape(-1, chunk)
    places = jnp.arange(rows.size).reshape(rows.shape)

    def one_chunk(rows, places):
        depths = jnp.where(places < batch, depth[rows], 0)
        return puppet.batch(as_unit(images[rows]), bank.indices(sets[rows]), bank.kernels, depths, rows, lowering)

    logits = lax.map(lambda each: one_chunk(*each), (rows, places)) if len(rows) > 1 else one_chunk(rows[0], places[0])

    def in_order(logits):
        logits = logits.reshape(rows.size, *logits.shape[rows.ndim :])[:batch] if len(rows) > 1 else logits[:batch]
        return jnp.zeros_like(logits).at[order].set(logits)

    return jax.tree.map(in_order, logits)


def where_rows(chosen: Bool[Array, " b"], output: Any, other: float | int) -> Any:
    """A puppet's output for the images that are chosen; ``other`` (0, where it is no floating number) for the rest."""

    def of(rows):
        value = other if jnp.issubdtype(rows.dtype, jnp.inexact) else 0
        return jnp.where(chosen.reshape(-1, *[1] * (rows.ndim - 1)), rows, jnp.asarray(value, rows.dtype))

    return jax.tree.map(of, output)
