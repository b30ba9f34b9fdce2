"""The bank that holds one kernel set for each bin of complexity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import PUPPETEERS, close, drawn

import puppet_jax as pj
from puppet_jax._batch import Bank, make_bank
from puppet_jax.puppeteers._grouped import GroupedPuppeteer

SHAPES = ((4, 2, 3, 3), (6, 4, 1, 1))
EVERY = PUPPETEERS | {
    "printed": lambda shapes: pj.create("puppet_xs", puppeteer="printed", rngs=nnx.Rngs(0)).puppeteer,
    "grouped": lambda shapes: GroupedPuppeteer(shapes, compression=1, rngs=nnx.Rngs(0)),
}


@pytest.mark.parametrize("name", list(PUPPETEERS))
def test_a_bank_holds_the_kernels_of_each_complexity(name):
    puppeteer, complexities = drawn(lambda: PUPPETEERS[name](SHAPES)), jnp.array([0.1, 3.3, 6.9])
    made = jax.jit(lambda h: make_bank(puppeteer, h, 5).kernels)(complexities)
    bank = Bank(made, make_bank(puppeteer, complexities, 5).firsts)
    each = [jax.jit(puppeteer)(h) for h in complexities]
    assert [kernels.shape[1:] for kernels in bank.kernels] == [(3, 3, 2, 4), (1, 1, 4, 6)]
    sets = jnp.array([4, 5, 7, 8])
    if name == "stored":
        assert bank.firsts is None
        assert [len(kernels) for kernels in bank.kernels] == [1, 1]
        np.testing.assert_array_equal(bank.indices(sets), np.zeros((2, 4)))
        assert bank.without((1, 1)) is bank
    else:
        assert bank.firsts == (5, 5)
        np.testing.assert_array_equal(bank.indices(sets), [[-1, 0, 2, -1]] * 2)
        np.testing.assert_array_equal(bank.holds(sets), [False, True, True, False])
    for layer, kernels in enumerate(bank.kernels):
        wanted = jnp.stack([kernel[layer] for kernel in each]).transpose(0, 3, 4, 2, 1)
        assert close(kernels, wanted[: len(kernels)], 1e-4)


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
