"""Euler's eq. (2) as a hand-written ``lax.scan``: what an integrator costs beyond its arithmetic."""

import jax

from puppet_jax import step_size


def trajectory(puppeteer, h):
    """P_1 … P_L, stacked: what ``OdePuppeteer.trajectory`` has diffrax compute, of the same field and initial state."""
    dl = step_size(h)

    def step(state, _):
        state = state + dl * puppeteer.field(state)
        return state, state

    return jax.lax.scan(step, puppeteer.initial_state(h), length=len(puppeteer.kernel_shapes))[1]
