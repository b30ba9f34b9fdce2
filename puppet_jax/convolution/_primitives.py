"""The convolution of each image with the kernel that it chooses from a bank, as JAX primitives.

JAX turns a batch of convolutions with a batch of kernels into one grouped convolution, which XLA serves badly (CPU: a
tenth of the speed of a shared kernel forwards, a hundredth backwards; GPUs: JAX issue 13800). Here image b has the
kernel k[s(b)] of a bank of S, and the three bilinear maps

    forward          y[b, p, o]        = sum_{t, i} x[b, q p + t, i] k[s(b), t, i, o]   (images, bank)       -> outputs
    image gradient   x[b, q p + t, i] += sum_o g[b, p, o] k[s(b), t, i, o]              (cotangents, bank)   -> images
    kernel gradient  k[s, t, i, o]     = sum_{b: s(b) = s, p} x[b, q p + t, i] g[b, p, o] (images, cotangents) -> bank

(q the stride) are three JAX primitives. The transpose of each in either argument is another of the three, so the set is
closed: ``jvp``, ``grad``, their compositions to any order, and ``vmap`` in any order and over any subset of the
arguments follow from one bilinear rule and one batching rule, and every one of them gets the fast lowering.
(``custom_vjp`` around ``custom_vmap`` gives neither forward mode nor second derivatives.) An image whose index is −1
has no kernel: its results are zeros, and it costs nothing where the lowering can leave it out.

Three more are the same maps of depthwise convolutions, o = i and a bank k[s, t, i], of which factored kernels are made.

Which program a primitive becomes is looked up in ``LOWERINGS`` by ``default_lowering`` (``lowerings.py``).
"""

import functools
import operator

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from puppet_jax.convolution._lowerings import default_lowering, program_of, shape_of


def compiled(primitive):
    """What evaluates a primitive on arrays: its lowering, compiled."""

    @functools.cache
    def program(**static):
        return jax.jit(lambda *operands: primitive.bind(*operands, **static))

    def run(*operands, **static):
        with jax.disable_jit(False):  # with jit disabled the call would come back here
            return program(**static)(*operands)

    return run


def _make(which, name, depthwise=False):
    primitive = Primitive(name)
    place = 2 if which == 2 else 1  # of the index among the operands

    primitive.def_impl(compiled(primitive))
    primitive.def_abstract_eval(
        lambda *operands, geometry, sets, lowering: operands[0].update(
            shape=shape_of(which, *operands, sets, geometry, depthwise)
        )
    )

    def lower(platform):
        def run(*operands, geometry, sets, lowering):
            chosen = lowering or default_lowering(platform)
            if chosen.startswith("native") and operands[0].dtype.itemsize > 4:
                chosen = "gathered"
            native_one = chosen.startswith("native")
            if native_one and platform != "cpu":
                raise ValueError(f"lowering {chosen!r} is a program for CPUs; on other platforms use None")
            if not native_one:
                # An index beyond the bank is an error in the C++ program; here it means the last kernel, in all maps.
                operands = (*operands[:place], jnp.minimum(operands[place], sets - 1), *operands[place + 1 :])
            return program_of(which, chosen, sets, depthwise)(*operands, sets, geometry)

        mlir.register_lowering(primitive, mlir.lower_fun(run, multiple_results=False), platform=platform)

    for platform in ("cpu", "tpu", None):
        lower(platform)

    def batch(operands, dims, *, sets, **static):
        size = next(a.shape[d] for a, d in zip(operands, dims, strict=True) if d is not None)
        whole = [
            jnp.broadcast_to(a, (size, *a.shape)) if d is None else jnp.moveaxis(a, d, 0)
            for a, d in zip(operands, dims, strict=True)
        ]
        if which != 2 and dims[2] is None:  # all choose from one bank
            flat = [a.reshape(-1, *a.shape[2:]) for a in whole[:2]]
            out = primitive.bind(*flat, operands[2], sets=sets, **static)
        else:  # each element of the batch has a bank of its own, a part of a larger one
            index, begins = whole[place], sets * jnp.arange(size, dtype=whole[place].dtype)[:, None]
            # An index beyond its own bank must not point into the next one.
            inside = jnp.where(index < sets, index + begins, size * sets)
            whole[place] = jnp.where(index < 0, index, inside)
            out = primitive.bind(*(a.reshape(-1, *a.shape[2:]) for a in whole), sets=size * sets, **static)
        return out.reshape(size, -1, *out.shape[1:]), 0

    batching.primitive_batchers[primitive] = batch

    def jvp(primals, tangents, **static):
        out = primitive.bind(*primals, **static)
        terms = [
            primitive.bind(*primals[:i], tangent, *primals[i + 1 :], **static)
            for i, tangent in enumerate(tangents)
            if i != place and type(tangent) is not ad.Zero
        ]
        return out, functools.reduce(operator.add, terms) if terms else ad.Zero.from_primal_value(out)

    ad.primitive_jvps[primitive] = jvp
    return primitive


def _transpose(primitive, *rules):
    """One rule for each operand: its cotangent, from the result's and the other two operands; none for the index."""

    def transpose(cotangent, *operands, **static):
        results = []
        for i, (operand, rule) in enumerate(zip(operands, rules, strict=True)):
            linear = ad.is_undefined_primal(operand) and type(cotangent) is not ad.Zero
            results.append(rule(cotangent, *operands[:i], *operands[i + 1 :], **static) if linear else None)
        return results

    ad.primitive_transposes[primitive] = transpose


def _family(prefix, depthwise=False):
    """The three maps, each the transpose of another."""
    names = (f"{prefix}_convolution", f"{prefix}_image_gradient", f"{prefix}_kernel_gradient")
    forward, image_gradient, kernel_gradient = (_make(i, name, depthwise) for i, name in enumerate(names))
    _transpose(
        forward,
        lambda ct, index, bank, **static: image_gradient.bind(ct, index, bank, **static),
        None,
        lambda ct, images, index, **static: kernel_gradient.bind(images, ct, index, **static),
    )
    _transpose(
        image_gradient,
        lambda ct, index, bank, **static: forward.bind(ct, index, bank, **static),
        None,
        lambda ct, cotangents, index, **static: kernel_gradient.bind(ct, cotangents, index, **static),
    )
    _transpose(
        kernel_gradient,
        lambda ct, cotangents, index, **static: image_gradient.bind(cotangents, index, ct, **static),
        lambda ct, images, index, **static: forward.bind(images, index, ct, **static),
        None,
    )
    return forward, image_gradient, kernel_gradient


forward_p, image_gradient_p, kernel_gradient_p = _family("puppet")
depthwise_p, depthwise_image_gradient_p, depthwise_kernel_gradient_p = _family("puppet_depthwise", depthwise=True)
