"""Kernel sets of several complexities: which of them a bank holds, and programs that make them, for every platform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import PUPPETEERS, drawn

import puppet_jax as pj
from puppet_jax._batch import Bank
from puppet_jax.puppeteers._grouped import GroupedPuppeteer

SHAPES = ((4, 2, 3, 3), (6, 4, 1, 1))
EVERY = PUPPETEERS | {
    "printed": lambda shapes: pj.create("puppet_xs", puppeteer="printed", rngs=nnx.Rngs(0)).puppeteer,
    "grouped": lambda shapes: GroupedPuppeteer(shapes, compression=1, rngs=nnx.Rngs(0)),
}


@pytest.mark.parametrize("name", list(EVERY))
def test_generation_and_its_gradient_are_programs_for_every_platform(name):
    graphdef, state = nnx.split(drawn(lambda: EVERY[name](SHAPES)))
    generate = lambda state, h: nnx.merge(graphdef, state).bank(h)  # noqa: E731
    loss = lambda state, h: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(generate(state, h)))  # noqa: E731
    for function in (generate, jax.grad(loss)):  # a callback to Python would be refused
        jax.jit(function).trace(state, jnp.ones(3)).lower(lowering_platforms=("cuda", "rocm", "tpu"))


def test_a_bank_may_lack_the_sets_that_only_shallow_images_would_choose():
    kernels = tuple(jnp.arange(4.0).reshape(4, 1, 1, 1, 1) + 10 * layer for layer in range(2))
    bank = Bank(kernels, (2, 2)).without((0, 3))
    assert bank.firsts == (2, 5)
    np.testing.assert_array_equal(bank.kernels[1].ravel(), [13.0])
    sets = jnp.array([1, 2, 4, 5, 6])
    np.testing.assert_array_equal(bank.indices(sets), [[-1, 0, 2, 3, -1], [-1, -1, -1, 0, -1]])
    np.testing.assert_array_equal(bank.holds(sets), [False, True, True, True, False])  # as far as any layer has one
