"""Kernel sets of several complexities are made on every platform. Which image gets which: see test_inference.py."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from small import PUPPETEERS, drawn

import puppet_jax as pj
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
