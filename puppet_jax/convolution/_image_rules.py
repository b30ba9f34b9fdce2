"""Rules of primitives that are made for a batch of images and have a formula in JAX: under ``vmap`` a larger batch,
under differentiation the formula."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching


def give_rules(primitive: Primitive, formula: Callable, shared: tuple[int, ...]) -> None:
    """Let a primitive of several results be batched and differentiated once.

    Args:
        formula: of the same operands and static arguments. Also taken where what lies at ``shared`` is batched, as in
            ensembles.
        shared: places of the operands that have no axis of images.
    """

    def batch(operands, dims, **static):
        size = next(a.shape[d] for a, d in zip(operands, dims, strict=True) if d is not None)
        if any(dims[place] is not None for place in shared):
            results = jax.vmap(functools.partial(formula, **static), dims)(*operands)
            return results, [0] * len(results)
        flat = list(operands)
        for place in set(range(len(operands))) - set(shared):
            one, dim = operands[place], dims[place]
            one = jnp.broadcast_to(one, (size, *one.shape)) if dim is None else jnp.moveaxis(one, dim, 0)
            flat[place] = one.reshape(-1, *one.shape[2:])
        results = primitive.bind(*flat, **static)
        return [each.reshape(size, -1, *each.shape[1:]) for each in results], [0] * len(results)

    def jvp(primals, tangents, **static):
        moving = [i for i, tangent in enumerate(tangents) if type(tangent) is not ad.Zero]

        def of_moving(*values):
            operands = list(primals)
            for i, value in zip(moving, values, strict=True):
                operands[i] = value
            return formula(*operands, **static)

        return jax.jvp(of_moving, [primals[i] for i in moving], [tangents[i] for i in moving])

    batching.primitive_batchers[primitive] = batch
    ad.primitive_jvps[primitive] = jvp
