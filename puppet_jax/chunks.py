"""A batch through the puppet a few images at a time: kernels that exist only where they are used, work only to depth D.

A batch's own kernels are many times larger than its images. Here a layer's kernels are mixtures of the table of nodes
by each image's interpolation weights, made where the convolution uses them and never stored: backwards they are made
again. Images are sorted by depth and taken in chunks; one that has left weighs nothing and costs no convolution, and a
chunk skips the layers beyond its deepest image, so that work is proportional to the sum of the depths, all within one
program of static shapes.
"""

import os

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Num

from puppet_jax.images import as_unit
from puppet_jax.puppeteers.interpolate import Grid
from puppet_jax.puppets import Puppet

Tables = tuple[Float[Array, "_ _ _ _ _"], ...]


def default_chunk() -> int:
    """Images that go through the layers together. CPU: their maps should stay in the caches, and every core should have
    some; accelerators: they should fill the device."""
    if jax.default_backend() != "cpu":
        return 64
    return max(32, min(os.cpu_count() or 1, 64))


def convolution_tables(tables: tuple[Float[Array, "_ _ _ _ _"], ...]) -> Tables:
    """Kernels at nodes, (M, C_out, C_in, K, K) a layer, as (M, K, K, C_in, C_out): the order the convolution reads."""
    return tuple(jnp.transpose(table, (0, 3, 4, 2, 1)) for table in tables)


def logits_in_chunks(
    puppet: Puppet,
    grid: Grid,
    tables: Tables,
    images: Num[Array, "b h w c"],
    complexity: Float[Array, " b"],
    depth: Int[Array, " b"],
    chunk: int,
) -> Float[Array, "b num_classes"]:
    """Logits of a batch, in the order given; differentiable in the puppet's parameters, the tables and the images.

    Args:
        puppet: the CNN.
        grid: the nodes of ``tables``.
        tables: kernels at the nodes, see :func:`convolution_tables`.
        images: uint8, or float in [0, 1].
        complexity: H of every image, bits.
        depth: D of every image; one of 0 only fills up the batch: it costs nothing and its logits mean nothing.
        chunk: images that go through the layers together.
    """
    batch = len(images)
    chunk = min(chunk, batch)
    # Deepest first: a chunk's images then need nearly the same number of layers. Rows that only fill up come last.
    order = jnp.argsort(-depth)
    rows = jnp.pad(order, (0, -batch % chunk)).reshape(-1, chunk)
    places = jnp.arange(rows.size).reshape(rows.shape)

    def one_chunk(rows, places):
        depths = jnp.where(places < batch, depth[rows], 0)
        return logits_of_chunk(puppet, grid, tables, images[rows], complexity[rows], depths, rows)

    logits = lax.map(lambda each: one_chunk(*each), (rows, places)) if len(rows) > 1 else one_chunk(rows[0], places[0])
    logits = logits.reshape(rows.size, -1)[:batch]
    return jnp.zeros_like(logits).at[order].set(logits)


def logits_of_chunk(
    puppet: Puppet,
    grid: Grid,
    tables: Tables,
    images: Num[Array, "b h w c"],
    complexity: Float[Array, " b"],
    depth: Int[Array, " b"],
    samples: Int[Array, " b"],
    lowering: str | None = None,
) -> Float[Array, "b num_classes"]:
    """Logits of images that go through the layers together, as far as the deepest of them. Arguments as above, and

    Args:
        samples: the images' numbers, which a puppetized model's random streams are made from.
        lowering: of the convolutions, see :func:`~puppet_jax.puppets.convolution.convolve`.
    """
    weights = jax.vmap(grid.weights)(complexity)
    return puppet.batch(as_unit(images), weights, tables, depth, samples, lowering)
