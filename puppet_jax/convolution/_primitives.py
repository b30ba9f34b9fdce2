"""The convolution of each image with the kernel that it chooses from a bank, and what a layer does after it, as JAX
primitives.

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
has no kernel: its results are zeros, and it costs nothing where the lowering can leave it out. The bank may be of a
wider type than images, which results have: of a bank, often all kernels that there are, only what is used is rounded.

Three more are the same maps of depthwise convolutions, o = i and a bank k[s, t, i], of which factored kernels are made.

What a layer does afterwards (normalisation over groups of channels, ReLU, the layer's input added, the mean over the
map) is a primitive too, with its tangent and the transpose of that; and so is the whole layer. On CPUs the C++ program
does them for an image while its map is in the cache, where XLA would read and write it several times.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from puppet_jax._mesh import AlikePrimitive
from puppet_jax.convolution import native
from puppet_jax.convolution._lowerings import default_lowering, formula_of, shape_of

CONVOLVED = "puppet_jax.convolved"
"""The name of results that are kept for a layer's gradient."""

EPSILON = 1e-5
"""Added to variances, unless a layer says otherwise."""


def primitive_of(name: str, abstract: Callable, formula: Callable, several: bool = True) -> Primitive:
    """Make a primitive, compiled also where it is evaluated on arrays.

    Args:
        name: of the C++ program's function for CPUs.
        abstract: operands' shapes and types → results' shapes and types, the first result's type that of the first
            operand. Static arguments hold ``lowering``.
        formula: the same in JAX, for other platforms, for 64-bit types and where there is no C++ program.
        several: whether there is a list of results.
    """
    primitive = AlikePrimitive(f"puppet_{name}")
    primitive.multiple_results, primitive.formula = several, formula

    @functools.cache
    def compiled(**static):
        return jax.jit(functools.partial(primitive.bind, **static))

    def evaluate(*operands, **static):
        with jax.disable_jit(False):  # with jit disabled the call would come back here
            return compiled(**static)(*operands)

    def run(platform, *operands, lowering, **static):
        lowering = lowering or default_lowering(platform)
        if lowering in native.LANES and platform != "cpu":
            raise ValueError(f"lowering {lowering!r} is a program for CPUs; on other platforms use None")
        if lowering not in native.LANES or name not in native.NAMES or any(a.dtype.itemsize > 4 for a in operands):
            return formula(*operands, lowering=lowering, **static)
        results = abstract(*map(jax.typeof, operands), lowering=lowering, **static)
        shapes = [each.shape for each in (results if several else [results])]
        first, *others = native.call(name, operands, shapes, lanes=native.LANES[lowering], **static)
        first = first.astype(operands[0].dtype)
        return [first, *others] if several else first

    primitive.def_impl(evaluate)
    primitive.def_abstract_eval(abstract)
    for platform in ("cpu", None):
        rule = mlir.lower_fun(functools.partial(run, platform), multiple_results=several)
        mlir.register_lowering(primitive, rule, platform=platform)
    return primitive


# ---- The three maps


def _one_map(which: int, name: str, depthwise: bool) -> Primitive:
    """Make one of the three maps (0 forward, 1 image gradient, 2 kernel gradient), its transposes left out."""
    place = 2 if which == 2 else 1  # of the index among the operands

    def abstract(*operands, geometry, sets, lowering):
        return operands[0].update(shape=shape_of(which, *operands, sets, geometry, depthwise))

    def formula(*operands, geometry, sets, lowering):
        # An index beyond the bank is an error in the C++ program; here it means the last kernel, in all maps.
        first, *others = operands
        others[place - 1] = jnp.minimum(others[place - 1], sets - 1)
        if which != 2:
            others[1] = others[1].astype(first.dtype)
        operands = (first, *others)
        return formula_of(which, sets, depthwise)(*operands, sets, geometry)

    primitive = primitive_of(name, abstract, formula, several=False)

    def batch(operands, dims, *, sets, **static):
        size = next(a.shape[d] for a, d in zip(operands, dims, strict=True) if d is not None)
        stacked = [
            jnp.broadcast_to(a, (size, *a.shape)) if d is None else jnp.moveaxis(a, d, 0)
            for a, d in zip(operands, dims, strict=True)
        ]
        if which != 2 and dims[2] is None:  # all choose from one bank
            flat = [a.reshape(-1, *a.shape[2:]) for a in stacked[:2]]
            out = primitive.bind(*flat, operands[2], sets=sets, **static)
        else:  # each element of the batch has a bank of its own, a part of a larger one
            index, begins = stacked[place], sets * jnp.arange(size, dtype=stacked[place].dtype)[:, None]
            # An index beyond its own bank must not point into the next one.
            inside = jnp.where(index < sets, index + begins, size * sets)
            stacked[place] = jnp.where(index < 0, index, inside)
            out = primitive.bind(*(a.reshape(-1, *a.shape[2:]) for a in stacked), sets=size * sets, **static)
        return out.reshape(size, -1, *out.shape[1:]), 0

    def jvp(primals, tangents, **static):
        out = primitive.bind(*primals, **static)
        terms = [
            primitive.bind(*primals[:i], tangent, *primals[i + 1 :], **static)
            for i, tangent in enumerate(tangents)
            if i != place and type(tangent) is not ad.Zero
        ]
        return out, functools.reduce(operator.add, terms) if terms else ad.Zero.from_primal_value(out)

    batching.primitive_batchers[primitive] = batch
    ad.primitive_jvps[primitive] = jvp
    return primitive


def _set_transposes(primitive: Primitive, *rules: Callable | None) -> None:
    """Set a rule for each operand but the index: its cotangent, from the result's and the other two operands."""

    def transpose(cotangent, *operands, **static):
        results = []
        for i, (operand, rule) in enumerate(zip(operands, rules, strict=True)):
            if ad.is_undefined_primal(operand) and type(cotangent) is not ad.Zero:
                of_operand = rule(cotangent, *operands[:i], *operands[i + 1 :], **static)
                results.append(of_operand.astype(operand.aval.dtype))
            else:
                results.append(None)
        return results

    ad.primitive_transposes[primitive] = transpose


def _three_maps(prefix: str, depthwise: bool) -> tuple[Primitive, Primitive, Primitive]:
    """Make the three maps, each the transpose of another."""
    names = (f"{prefix}forward", f"{prefix}image_gradient", f"{prefix}kernel_gradient")
    forward, image_gradient, kernel_gradient = (_one_map(i, name, depthwise) for i, name in enumerate(names))
    _set_transposes(
        forward,
        lambda ct, index, bank, **static: image_gradient.bind(ct, index, bank, **static),
        None,
        lambda ct, images, index, **static: kernel_gradient.bind(images, ct, index, **static),
    )
    _set_transposes(
        image_gradient,
        lambda ct, index, bank, **static: forward.bind(ct, index, bank, **static),
        None,
        lambda ct, cotangents, index, **static: kernel_gradient.bind(ct, cotangents, index, **static),
    )
    _set_transposes(
        kernel_gradient,
        lambda ct, cotangents, index, **static: image_gradient.bind(cotangents, index, ct, **static),
        lambda ct, images, index, **static: forward.bind(images, index, ct, **static),
        None,
    )
    return forward, image_gradient, kernel_gradient


forward_p, image_gradient_p, kernel_gradient_p = _three_maps("", depthwise=False)
depthwise_p, depthwise_image_gradient_p, depthwise_kernel_gradient_p = _three_maps("depthwise_", depthwise=True)


# ---- What a layer does after its convolution: the map, its tangent, and the transpose of that, which training takes


def group_norm(
    x: Float[Array, "h w c"],
    groups: int,
    scale: Float[Array, " c"],
    shift: Float[Array, " c"],
    epsilon: float = EPSILON,
) -> Float[Array, "h w c"]:
    """Normalise one image's map over ``groups`` groups of channels, statistics in float32 (Wu and He 2018,
    arXiv:1803.08494)."""
    # Sums down the columns first, channels lie side by side in memory, then over a group's few: XLA:CPU takes two to
    # seven times as long to reduce both at once, and as long again backwards.
    h, w, c = x.shape
    y = x.astype(jnp.float32).reshape(h * w, c)

    def mean_of_group(per_channel):
        return jnp.repeat(jnp.mean(per_channel.reshape(groups, c // groups), axis=1), c // groups)

    mean = mean_of_group(jnp.mean(y, axis=0))
    variance = mean_of_group(jnp.mean((y - mean[None]) ** 2, axis=0))
    factor = jax.lax.rsqrt(variance + epsilon) * scale
    return (y * factor[None] + (shift - mean * factor)[None]).reshape(h, w, c).astype(x.dtype)


def _finish(maps, index, images, scale, shift, *, groups, relu, residual, epsilon, lowering):
    y = jax.vmap(lambda y: group_norm(y, groups, scale, shift, epsilon))(maps)
    y = jax.nn.relu(y) if relu else y
    y = y + images if residual else y
    y = jnp.where((index >= 0)[:, None, None, None], y, jnp.zeros((), y.dtype))
    return [y, jnp.mean(y, axis=(1, 2), dtype=jnp.float32)]


def _normalised(index, static):
    """Return the function of maps, scale and shift, in which the output less the input added is not linear."""
    return lambda maps, scale, shift: _finish(maps, index, None, scale, shift, **static, residual=False)[0]


def _tangent(tangents, maps, index, scale, shift, scale_tangent, shift_tangent, **static):
    return [jax.jvp(_normalised(index, static), (maps, scale, shift), (tangents, scale_tangent, shift_tangent))[1]]


def _gradient(cotangents, maps, index, scale, shift, **static):
    """Of scale and shift, each image's part."""

    def of_image(cotangent, of_map, index):
        _, transpose = jax.vjp(_normalised(index[None], static), of_map[None], scale, shift)
        gradient, *others = transpose(cotangent[None])
        return [gradient[0], *others]

    return jax.vmap(of_image)(cotangents, maps, index)


def give_rules(primitive: Primitive, formula: Callable, shared: tuple[int, ...]) -> None:
    """Let a primitive of a batch of images be batched again, to a larger batch, and differentiated, as its formula.

    Args:
        primitive: with several results.
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


def _after_convolution(name: str, formula: Callable, shared: tuple[int, ...], vectors: int) -> Primitive:
    """Make a primitive whose first result is like its first operand, followed by so many float32 ``vectors`` (N, C)."""

    def abstract(maps, *_, **static):
        vector = maps.update(shape=(maps.shape[0], maps.shape[-1]), dtype=jnp.dtype(jnp.float32))
        return [maps, *[vector] * vectors]

    primitive = primitive_of(name, abstract, formula)
    give_rules(primitive, formula, shared)
    return primitive


finish_p = _after_convolution("finish", _finish, shared=(3, 4), vectors=1)
tangent_p = _after_convolution("finish_tangent", _tangent, shared=(3, 4, 5, 6), vectors=0)
gradient_p = _after_convolution("finish_gradient", _gradient, shared=(3, 4), vectors=2)


def _finish_jvp(primals, tangents, *, residual, **static):
    maps, index, _, scale, shift = primals
    of_maps, _, of_images, *others = tangents
    of_maps, *others = map(ad.instantiate_zeros, (of_maps, *others))
    (tangent,) = tangent_p.bind(of_maps, maps, index, scale, shift, *others, **static)
    if residual and type(of_images) is not ad.Zero:
        tangent += jnp.where((index >= 0)[:, None, None, None], of_images, jnp.zeros((), of_images.dtype))
    tangents = [tangent, jnp.mean(tangent, axis=(1, 2), dtype=jnp.float32)]
    return finish_p.bind(*primals, residual=residual, **static), tangents


def _tangent_transpose(cotangents, tangents, maps, index, scale, shift, of_scale, of_shift, **static):
    gradients = gradient_p.bind(ad.instantiate_zeros(cotangents[0]), maps, index, scale, shift, **static)
    found = [gradients[0], None, None, None, None, *(each.sum(0) for each in gradients[1:])]
    linear = tangents, None, None, None, None, of_scale, of_shift
    return [each if ad.is_undefined_primal(one) else None for one, each in zip(linear, found, strict=True)]


ad.primitive_jvps[finish_p] = _finish_jvp
ad.primitive_transposes[tangent_p] = _tangent_transpose


# ---- A whole layer: 4 to 20 % faster in prediction on CPUs than its parts, which it is elsewhere


def _layer(images, index, bank, scale, shift, *, geometry, sets, lowering, **of_finish: Any):
    maps = forward_p.bind(images, index, bank, geometry=geometry, sets=sets, lowering=lowering)
    return finish_p.bind(checkpoint_name(maps, CONVOLVED), index, images, scale, shift, lowering=lowering, **of_finish)


def _layer_shapes(images, index, bank, scale, shift, *, geometry, **static):
    return [
        images.update(shape=(images.shape[0], *geometry.output, bank.shape[-1])),
        images.update(shape=(images.shape[0], bank.shape[-1]), dtype=jnp.dtype(jnp.float32)),
    ]


layer_p = primitive_of("layer", _layer_shapes, _layer)
give_rules(layer_p, _layer, shared=(2, 3, 4))
