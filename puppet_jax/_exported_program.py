"""A predictor as one program of XLA's own operations, for any number of images: what an export holds."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from puppet_jax._bank import Bank
from puppet_jax._batch import where_rows
from puppet_jax._complexity import as_unit
from puppet_jax._predict import Predictor
from puppet_jax.any_cnn._modules import leaf_name
from puppet_jax.convolution import whole

KERNELS = "kernels"


def portable(predict: Predictor) -> tuple[Callable, dict[str, np.ndarray]]:
    """``function(images, arrays) -> (logits, complexity, depth)``, a tuple, and the arrays by name.

    The function is pure and not jitted. It takes images (B, H, W, C) as :class:`Predictor` does, with B an integer or a
    symbolic dimension (``jax.export.symbolic_shape``), and a list of arrays in the order given. On CPUs images are
    taken one by one, each to its own depth, which needs neither sorting nor filling up; elsewhere all together, as far
    as the deepest of them.
    """
    assert predict.bank is not None  # `export` refuses what has none
    graphdef, state = nnx.split(predict.puppet)
    firsts = predict.bank.firsts
    arrays, filled = _stored({"puppet": state, KERNELS: whole(predict.bank.kernels)})

    def function(images, arrays):
        held = filled(arrays)
        h, d = predict.measurement(images, predict.puppet.max_depth)
        bank = Bank(held[KERNELS], firsts)
        samples = jnp.arange(images.shape[0])

        def run(bank, images, bins, d, samples):
            there = bank.holds(bins)
            puppet = nnx.merge(graphdef, held["puppet"])
            places = as_unit(images), bank.indices(bins), bank.kernels, jnp.where(there, d, 0), samples
            return where_rows(there, puppet.batch(*places, "gathered"), jnp.nan)

        def alone(row):
            image, of_bin, *rest = (each[None] for each in row)
            # Each layer's one kernel, so that the program holds ordinary convolutions.
            own = [jnp.take(k, i, 0, mode="clip") for k, i in zip(bank.kernels, bank.indices(of_bin), strict=True)]
            logits = where_rows(bank.holds(of_bin), run(Bank(tuple(own), None), image, of_bin, *rest), jnp.nan)
            return jax.tree.map(lambda rows: rows[0], logits)

        bins = predict.measurement.index(h)
        logits = lax.platform_dependent(
            *(images, bins, d, samples),
            cpu=lambda *batch: lax.map(alone, batch),
            default=functools.partial(run, bank),
        )
        return logits, h, d

    return function, arrays


def portable_generator(predict: Predictor) -> tuple[Callable, dict[str, np.ndarray]]:
    """``function(arrays) -> kernels``, a tuple, and the puppeteer's arrays by name.

    The kernels are those of :func:`portable`'s arrays whose names begin with ``KERNELS``, in their order. The function
    is pure and not jitted, and takes a list of the arrays in the order given.
    """
    graphdef, state = nnx.split(predict.puppeteer)
    arrays, filled = _stored(state)
    return lambda arrays: whole(predict.make_bank(nnx.merge(graphdef, filled(arrays))).kernels), arrays


def _stored(tree: Any) -> tuple[dict[str, np.ndarray], Callable[[list], Any]]:
    """What of a tree can be written to files, by name, and a function that puts such arrays into their places in it."""
    structure: Any
    leaves, structure = jax.tree.flatten_with_path(tree)
    # Random keys and bfloat16 have no place in NumPy's files: they stay in the program, as constants.
    places = [i for i, (_, leaf) in enumerate(leaves) if getattr(leaf.dtype, "isbuiltin", 0) == 1]

    def filled(arrays: list) -> Any:
        every = [leaf for _, leaf in leaves]
        for i, array in zip(places, arrays, strict=True):
            every[i] = array
        return structure.unflatten(every)

    return {leaf_name(leaves[i][0]): np.asarray(leaves[i][1]) for i in places}, filled
