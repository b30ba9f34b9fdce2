"""Convolution with kernels that are weighted sums of a table's, as interpolated ones are, without forming them.

Image i's kernel is sum_m w[i, m] T[m]. The table T is the batch's, a few kernels; the weights are the image's, a few
numbers. Formed, a batch's kernels are many times larger than its images, and are written, read once, and in training
read again; the program for CPUs (``native/mixed.inc``) forms a part of a kernel at a time in a core's cache and never
stores one. Everywhere else they are formed by a matrix product and given to the primitives of ``primitives.py``.

The map is linear in each of images, weights and table. Three primitives

    forward          (images, weights, table)       -> outputs
    image gradient   (cotangents, weights, table)   -> images
    table gradient   (images, cotangents, weights)  -> table

are each other's transposes, so any derivative of any order is made of them, but for those with respect to weights,
which form kernel gradients. An image whose weights are all zero has outputs of zero and costs nothing.
"""

import functools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from puppet_jax.puppets import native
from puppet_jax.puppets.primitives import default_lowering, forward_p, image_gradient_p, kernel_gradient_p


class Mixture(NamedTuple):
    """A kernel that is a weighted sum of those of a table: sum_m weights[m] table[m].

    Attributes:
        weights: (M,), the image's own.
        table: (M, K_h, K_w, C_in, C_out), shared by a batch: under ``vmap``, map the weights only.
    """

    weights: Float[Array, " nodes"]
    table: Float[Array, "nodes k_h k_w c_in c_out"]

    def astype(self, dtype: DTypeLike) -> "Mixture | Float[Array, 'c_out c_in k_h k_w']":
        """What to convolve images of ``dtype`` with: itself for float32; else the kernel, formed and then rounded."""
        if jnp.dtype(dtype) == jnp.float32:
            return self
        return self.formed().astype(dtype)

    def formed(self) -> Float[Array, "c_out c_in k_h k_w"]:
        """The kernel itself."""
        return jnp.transpose(_form(self.weights[None], self.table)[0], (3, 2, 0, 1))

    def one_of_table(self) -> Float[Array, "k_h k_w c_in c_out"]:
        """The table's first kernel, for its shape and dtype.

        Raises:
            ValueError: weights and table do not go together.
        """
        if self.weights.ndim != 1 or self.table.ndim != 5 or len(self.weights) != len(self.table):
            raise ValueError(
                "Mixture: takes weights (M,) and a table (M, K_h, K_w, C_in, C_out), got shapes "
                f"{self.weights.shape} and {self.table.shape}; use jax.vmap for batches"
            )
        return self.table[0]


# ---- The same by way of formed kernels: images (G, N, H, W, I), weights (G, M), table (M, h, w, I, O)


def _form(weights, table):
    # A handful of terms: exact products cost nothing, and a kernel rounded to TF32 or bfloat16 would spoil the logits.
    return jnp.einsum("gm,mhwio->ghwio", weights, table, precision=jax.lax.Precision.HIGHEST)


def _formed_forward(images, weights, table, **static):
    return forward_p.bind(images, _form(weights, table), **static)


def _formed_image_gradient(cotangents, weights, table, **static):
    return image_gradient_p.bind(cotangents, _form(weights, table), **static)


def _formed_table_gradient(images, cotangents, weights, **static):
    kernels = kernel_gradient_p.bind(images, cotangents, **static)
    return jnp.einsum("gm,ghwio->mhwio", weights, kernels, precision=jax.lax.Precision.HIGHEST)


def _weights_gradient(images, cotangents, table, **static):
    kernels = kernel_gradient_p.bind(images, cotangents, **static)
    return jnp.einsum("ghwio,mhwio->gm", kernels, table, precision=jax.lax.Precision.HIGHEST)


# ---- By the program for CPUs


def _native_forward(lanes, images, weights, table, geo):
    out = (*images.shape[:2], *geo.output, table.shape[-1])
    before = geo.padding[0][0], geo.padding[1][0]
    return native.mixed_forward(images, weights, table, out, geo.stride, before, (1, 1), lanes)


def _native_image_gradient(lanes, cotangents, weights, table, geo):
    # A forward map of the cotangents, ``stride`` apart, with the turned table's kernels: turned once for the batch.
    out = (*cotangents.shape[:2], *geo.image, table.shape[-2])
    before = tuple(k - 1 - low for k, (low, _) in zip(geo.kernel, geo.padding, strict=True))
    return native.mixed_forward(cotangents, weights, native.turn(table), out, (1, 1), before, geo.stride, lanes)


def _native_table_gradient(lanes, images, cotangents, weights, geo):
    c_out = cotangents.shape[-1]
    more = -c_out % lanes  # whole vectors
    cotangents = jnp.pad(cotangents, ((0, 0),) * 4 + ((0, more),))
    spans = ((m - 1) * s + k for m, s, k in zip(geo.output, geo.stride, geo.kernel, strict=True))
    around = [(low, span - n - low, 0) for n, (low, _), span in zip(geo.image, geo.padding, spans, strict=True)]
    still = (0, 0, 0)
    padded = jax.lax.pad(images, jnp.zeros((), images.dtype), (still, still, *around, still))
    out = (weights.shape[1], *geo.kernel, images.shape[-1], c_out + more)
    return native.mixed_gradient(padded, cotangents, weights, out, geo.stride, lanes)[..., :c_out]


# ---- The primitives


def _make(name, shape, formed, by_native, table=None):
    """A primitive of three operands; ``shape`` of its result from theirs and the geometry, ``table`` which one of them
    is the table, if one is."""
    primitive = Primitive(name)

    @functools.cache
    def compiled(geometry, lowering):
        return jax.jit(lambda *operands: primitive.bind(*operands, geometry=geometry, lowering=lowering))

    primitive.def_impl(lambda *operands, **static: compiled(**static)(*operands))
    primitive.def_abstract_eval(
        lambda *operands, geometry, lowering: operands[0].update(shape=shape(*(a.shape for a in operands), geometry))
    )

    def lower(platform):
        def run(*operands, geometry, lowering):
            chosen = lowering or default_lowering(platform)
            if chosen.startswith("native") and platform == "cpu" and operands[0].dtype == jnp.float32:
                return by_native(native.LANES[chosen], *operands, geometry)
            return formed(*operands, geometry=geometry, lowering=lowering)

        mlir.register_lowering(primitive, mlir.lower_fun(run, multiple_results=False), platform=platform)

    for platform in ("cpu", None):
        lower(platform)

    def batch(operands, dims, **static):
        if table is None or dims[table] is not None:
            # Ensembles, and gradients of single images: nothing is shared that could be read once.
            return jax.vmap(functools.partial(formed, **static), in_axes=dims)(*operands), 0
        size = next(a.shape[d] for a, d in zip(operands, dims, strict=True) if d is not None)
        mapped = [
            jnp.broadcast_to(a, (size, *a.shape)) if d is None else jnp.moveaxis(a, d, 0)
            for a, d in zip(operands[:table], dims[:table], strict=True)
        ]
        groups = mapped[0].shape[1]
        out = primitive.bind(*(a.reshape(-1, *a.shape[2:]) for a in mapped), operands[table], **static)
        return out.reshape(size, groups, *out.shape[1:]), 0

    batching.primitive_batchers[primitive] = batch

    def jvp(primals, tangents, **static):
        out = primitive.bind(*primals, **static)
        terms = [
            primitive.bind(*primals[:i], tangent, *primals[i + 1 :], **static)
            for i, tangent in enumerate(tangents)
            if type(tangent) is not ad.Zero
        ]
        return out, functools.reduce(operator.add, terms)

    ad.primitive_jvps[primitive] = jvp
    return primitive


mixed_forward_p = _make(
    "puppet_mixed_convolution",
    lambda images, weights, table, geo: (*images[:2], *geo.output, table[-1]),
    _formed_forward,
    _native_forward,
    table=2,
)
mixed_image_gradient_p = _make(
    "puppet_mixed_image_gradient",
    lambda cotangents, weights, table, geo: (*cotangents[:2], *geo.image, table[-2]),
    _formed_image_gradient,
    _native_image_gradient,
    table=2,
)
mixed_table_gradient_p = _make(
    "puppet_mixed_table_gradient",
    lambda images, cotangents, weights, geo: (weights[1], *geo.kernel, images[-1], cotangents[-1]),
    _formed_table_gradient,
    _native_table_gradient,
)


def _transpose(primitive, *rules):
    """One rule for each operand: the operand's cotangent, from the result's and the other two operands."""

    def transpose(cotangent, *operands, **static):
        results = []
        for i, (operand, rule) in enumerate(zip(operands, rules, strict=True)):
            if ad.is_undefined_primal(operand) and type(cotangent) is not ad.Zero:
                results.append(rule(cotangent, *operands[:i], *operands[i + 1 :], **static))
            else:
                results.append(None)
        return results

    ad.primitive_transposes[primitive] = transpose


_transpose(
    mixed_forward_p,
    lambda ct, weights, table, **static: mixed_image_gradient_p.bind(ct, weights, table, **static),
    lambda ct, images, table, **static: _weights_gradient(images, ct, table, **static),
    lambda ct, images, weights, **static: mixed_table_gradient_p.bind(images, ct, weights, **static),
)
_transpose(
    mixed_image_gradient_p,
    lambda ct, weights, table, **static: mixed_forward_p.bind(ct, weights, table, **static),
    lambda ct, cotangents, table, **static: _weights_gradient(ct, cotangents, table, **static),
    lambda ct, cotangents, weights, **static: mixed_table_gradient_p.bind(ct, cotangents, weights, **static),
)
_transpose(
    mixed_table_gradient_p,
    lambda ct, cotangents, weights, **static: mixed_image_gradient_p.bind(cotangents, weights, ct, **static),
    lambda ct, images, weights, **static: mixed_forward_p.bind(images, weights, ct, **static),
    lambda ct, images, cotangents, **static: _weights_gradient(images, cotangents, ct, **static),
)
