"""What a layer does after its convolution, as JAX primitives: normalisation over groups of channels, ReLU, the layer's
input added, the mean over the map.

They are three: the map itself; its tangent; and the transpose of that, which training takes. On a CPU, where it was
built, the C++ program does the first and the last for an image while its map is in the cache, where XLA would read and
write it several times. Elsewhere, and for further derivatives, all are their formulas.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir

from puppet_jax.convolution import native
from puppet_jax.convolution._group_norm import EPSILON, group_norm
from puppet_jax.convolution._image_rules import give_rules
from puppet_jax.convolution._lowerings import default_lowering
from puppet_jax.convolution._primitives import compiled


def _finish(maps, index, images, scale, shift, *, groups, relu, residual, epsilon=EPSILON):
    y = jax.vmap(lambda y: group_norm(y, groups, scale, shift, epsilon))(maps)
    y = jax.nn.relu(y) if relu else y
    y = y + images if residual else y
    y = jnp.where((index >= 0)[:, None, None, None], y, jnp.zeros((), y.dtype))
    return [y, jnp.mean(y, axis=(1, 2), dtype=jnp.float32)]


def _normalised(index, static):
    """The output, without the input added, of what it is not linear in."""
    return lambda maps, scale, shift: _finish(maps, index, None, scale, shift, **static, residual=False)[0]


def _tangent(tangents, maps, index, scale, shift, scale_tangent, shift_tangent, **static):
    return [jax.jvp(_normalised(index, static), (maps, scale, shift), (tangents, scale_tangent, shift_tangent))[1]]


def _gradient(cotangents, maps, index, scale, shift, **static):
    def of_image(cotangent, of_map, index):
        _, transpose = jax.vjp(_normalised(index[None], static), of_map[None], scale, shift)
        gradient, *others = transpose(cotangent[None])
        return [gradient[0], *others]

    return jax.vmap(of_image)(cotangents, maps, index)


def _make(name: str, formula: Callable, shared: tuple[int, ...], vectors: int, on_cpu: Callable | None) -> Primitive:
    """A primitive whose first result is like its first operand, followed by as many float32 ``vectors`` (N, C). All
    operands but those at the places ``shared`` have an axis of images. ``on_cpu`` is its C++ program, if it has one."""
    primitive = Primitive(name)
    primitive.multiple_results = True

    def abstract(maps, *_, **static):
        vector = maps.update(shape=(maps.shape[0], maps.shape[-1]), dtype=jnp.dtype(jnp.float32))
        return [maps, *[vector] * vectors]

    def lower(platform):
        def run(*operands, lowering, **static):
            chosen = lowering or default_lowering(platform)
            single = all(operand.dtype in (jnp.float32, jnp.int32) for operand in operands)
            if on_cpu is not None and platform == "cpu" and chosen.startswith("native") and single:
                return on_cpu(operands, lanes=native.LANES[chosen], **static)
            return formula(*operands, **static)

        mlir.register_lowering(primitive, mlir.lower_fun(run, multiple_results=True), platform=platform)

    for platform in ("cpu", None):
        lower(platform)
    primitive.def_impl(compiled(primitive))
    primitive.def_abstract_eval(abstract)
    give_rules(primitive, lambda *operands, lowering, **static: formula(*operands, **static), shared)
    return primitive


finish_p = _make("puppet_finish", _finish, (3, 4), 1, native.finish)
tangent_p = _make("puppet_finish_tangent", _tangent, (3, 4, 5, 6), 0, None)
gradient_p = _make("puppet_finish_gradient", _gradient, (3, 4), 2, native.finish_gradient)


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
