"""The two bilinear maps against the same in plain JAX, in every derivative."""

import functools

import jax
import jax.numpy as jnp
import pytest
from small import close

from puppet_jax.puppeteers._bilinear import combine, depthwise


def convolve_depthwise(planes, weights):
    return jax.lax.conv_general_dilated(
        jnp.swapaxes(planes, 1, 2),
        weights[:, :, None],
        (1, 1),
        "SAME",
        feature_group_count=planes.shape[-1],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    ).swapaxes(1, 2)


MAPS = {
    "combine": (combine, jnp.matmul, (5, 3), (3, 4)),
    "depthwise": (depthwise, convolve_depthwise, (2, 5, 4, 3), (3, 3, 3)),
}


@pytest.mark.parametrize("name", MAPS)
def test_is_what_plain_jax_computes_in_every_derivative(rng, name):
    ours, plain, *shapes = MAPS[name]
    a, b = (jnp.float32(rng.standard_normal(shape)) for shape in shapes)
    many_a, many_b = jnp.stack([a, 2 * a]), jnp.stack([b, -b])
    v = jnp.cos(a), jnp.sin(b)

    @functools.partial(jax.jit, static_argnums=0)
    def everything(product, a, b):
        loss = lambda a, b: jnp.sum(jnp.tanh(product(a, b)) ** 2)  # noqa: E731
        both = jax.grad(loss, (0, 1))
        return {
            "value": product(a, b),
            "vmap over the left": jax.vmap(product, (0, None))(many_a, b),
            "over its second axis": jax.vmap(product, (1, None))(jnp.swapaxes(many_a, 0, 1), b),
            "vmap over the right": jax.vmap(product, (None, 0))(a, many_b),
            "vmap over both": jax.vmap(product)(many_a, many_b),
            "gradients": both(a, b),
            "forward mode": jax.jvp(loss, (a, b), v),
            "hessian times a vector": jax.jvp(both, (a, b), v)[1],
            "reverse twice": jax.grad(lambda a, b: jnp.sum(both(a, b)[1] ** 2), (0, 1))(a, b),
            "gradients under vmap": jax.vmap(both, (0, None))(many_a, b),
        }

    found, expected = everything(ours, a, b), everything(plain, a, b)
    for key in expected:
        assert close(found[key], expected[key], 1e-5), key
