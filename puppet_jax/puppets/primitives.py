"""The convolution of one image with its own kernel as JAX primitives: rules of its own for batches and derivatives.

JAX turns a batch of convolutions with a batch of kernels into one grouped convolution, which XLA serves badly (CPU: a
tenth of the speed of a shared kernel forwards, a hundredth backwards; GPUs: JAX issue 13800). Here the three bilinear
maps

    forward          y[p, o]        = sum_{t, i} x[s p + t, i] k[t, i, o]       (image, kernel)      -> output
    image gradient   x[s p + t, i] += sum_o g[p, o] k[t, i, o]                  (cotangent, kernel)  -> image
    kernel gradient  k[t, i, o]     = sum_p x[s p + t, i] g[p, o]               (image, cotangent)   -> kernel

are three JAX primitives. The transpose of each in either argument is another of the three, so the set is closed:
``jvp``, ``grad``, their compositions to any order, and ``vmap`` in any order and over any subset of the arguments
follow from one bilinear rule and one batching rule, and every one of them gets the fast lowering. (``custom_vjp``
around ``custom_vmap`` gives neither forward mode nor second derivatives.) The primitives work on G groups of N images
that share a kernel; ``vmap`` over both arguments multiplies G, ``vmap`` over one of them multiplies that argument's
free axis (N images, C_in or C_out channels), so a shared kernel remains one ordinary batched convolution.

Which program a primitive becomes is looked up in ``LOWERINGS`` by ``default_lowering``.
"""

import functools
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from puppet_jax.puppets import native


class Geometry(NamedTuple):
    """What two of image, kernel and output do not say about the third. Pairs are (vertical, horizontal)."""

    image: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]  # (before, after) of each axis

    @property
    def output(self):
        return tuple((n + lo + hi - k) // s + 1 for n, k, s, (lo, hi) in zip(*self, strict=True))


# ---- The three maps for one group: images (N, H, W, I), kernel (h, w, I, O), outputs (N, H', W', O)


def _convolution(images, kernel, padding, **dilation):
    """One ordinary convolution, NHWC x HWIO: the only layout that XLA:CPU gives to Eigen (others run a naive loop).

    Computed in float32 for bfloat16 operands too: XLA:CPU has no faster bfloat16 convolution to lose.
    """
    wide = jnp.promote_types(images.dtype, jnp.float32)
    strides = dilation.pop("strides", (1, 1))
    out = lax.conv_general_dilated(
        images.astype(wide),
        kernel.astype(wide),
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        **dilation,
    )
    return out.astype(images.dtype)


def _forward(images, kernel, geo):
    return _convolution(images, kernel, geo.padding, strides=geo.stride)


def _image_gradient(cotangents, kernel, geo):
    """The cotangents, ``stride`` apart, convolved with the kernel turned by 180 degrees, its channels exchanged.

    Everything else is turned instead of the kernel, which is often the largest of the three and is copied anyway.
    """
    padding = [(n + lo - 1 - (m - 1) * s, k - 1 - lo) for n, k, s, (lo, _), m in zip(*geo, geo.output, strict=True)]
    exchanged = jnp.swapaxes(kernel, 2, 3)
    return _convolution(cotangents[:, ::-1, ::-1], exchanged, padding, lhs_dilation=geo.stride)[:, ::-1, ::-1]


def _kernel_gradient(images, cotangent, geo):
    """The images convolved with the cotangent as a kernel of H' x W': channels in the place of N, N in theirs.

    Inside, Eigen runs this as the matrix product (K_h K_w C_in, H' W' N) x (H' W' N, C_out), patches formed on the fly.
    """
    padding = [(lo, (m - 1) * s + k - n - lo) for n, k, s, (lo, _), m in zip(*geo, geo.output, strict=True)]
    out = _convolution(
        jnp.transpose(images, (3, 1, 2, 0)),
        jnp.transpose(cotangent, (1, 2, 0, 3)),
        padding,
        rhs_dilation=geo.stride,
    )
    return jnp.transpose(out, (1, 2, 0, 3))


# ---- Lowerings: the maps for G groups, a leading axis on both operands


WIDTH = max(4, min(os.cpu_count() or 1, 32))  # more only costs compilation


def _independent(function):
    """A loop over the groups, ``WIDTH`` ordinary convolutions side by side in its body.

    Each runs as one with a shared kernel would, and Eigen spreads each over the threads there are. None depends on
    another, only their stores are chained. Results are stored in place: stacking them costs a copy.
    """

    def run(left, right, geo):
        groups = left.shape[0]
        one = jax.eval_shape(lambda a, b: function(a, b, geo), left[0], right[0])

        def some(start, out, count):
            results = [function(_at(left, start + i), _at(right, start + i), geo) for i in range(count)]
            for i, result in enumerate(results):
                out = lax.dynamic_update_index_in_dim(out, result, start + i, 0)
            return out

        out = jnp.zeros((groups, *one.shape), one.dtype)
        loops, rest = divmod(groups, WIDTH)
        out = lax.fori_loop(0, loops, lambda i, out: some(i * WIDTH, out, WIDTH), out)
        return some(loops * WIDTH, out, rest)

    return run


def _at(array, index):
    return lax.dynamic_index_in_dim(array, index, keepdims=False)


def _grouped(function):
    """What ``vmap`` alone does: one grouped convolution. For comparison, and as another formulation for tests."""
    return lambda left, right, geo: jax.vmap(lambda a, b: function(a, b, geo))(left, right)


def _taps(images, geo):
    """For each of the K_h K_w taps, the pixels it meets: (G, N, H, W, C) -> (G, N, H', W', C), strided slices."""
    (top, bottom), (left, right) = geo.padding
    images = jnp.pad(images, ((0, 0), (0, 0), (top, bottom), (left, right), (0, 0)))
    (h, w), (s, t) = geo.output, geo.stride
    for i in range(geo.kernel[0]):
        for j in range(geo.kernel[1]):
            yield i, j, images[:, :, i : i + (h - 1) * s + 1 : s, j : j + (w - 1) * t + 1 : t]


def _wide_einsum(equation, left, right):
    return jnp.einsum(equation, left, right, preferred_element_type=jnp.promote_types(left.dtype, jnp.float32))


def _taps_forward(images, kernels, geo):
    """A sum over taps of batched matrix products: no patches; each product (H' W', C_in) x (C_in, C_out), G times."""
    out = sum(_wide_einsum("gnhwi,gio->gnhwo", seen, kernels[:, i, j]) for i, j, seen in _taps(images, geo))
    return out.astype(images.dtype)


def _taps_image_gradient(cotangents, kernels, geo):
    """Each tap's product with its transposed matrix, put back where the tap took its pixels from."""
    groups, n = cotangents.shape[:2]
    wide = jnp.promote_types(cotangents.dtype, jnp.float32)
    zeros = jnp.zeros((groups, n, *geo.image, kernels.shape[3]), wide)
    (padded,) = jax.linear_transpose(lambda x: tuple(seen for *_, seen in _taps(x, geo)), zeros)(
        tuple(
            _wide_einsum("gnhwo,gio->gnhwi", cotangents, kernels[:, i, j])
            for i in range(geo.kernel[0])
            for j in range(geo.kernel[1])
        )
    )
    return padded.astype(cotangents.dtype)


def _taps_kernel_gradient(images, cotangents, geo):
    """One batched matrix product (C_in, N H' W') x (N H' W', C_out) for each tap."""
    taps = [_wide_einsum("gnhwi,gnhwo->gio", seen, cotangents) for *_, seen in _taps(images, geo)]
    return jnp.stack(taps, 1).reshape(-1, *geo.kernel, *taps[0].shape[1:]).astype(images.dtype)


def _native(lanes):
    """The C++ program (``native/``): direct convolution, image by image, on all of XLA's threads.

    bfloat16 is computed in float32, as XLA:CPU does too; wider types get XLA's own convolutions.
    """

    def run(which, left, right, geo):
        dtype = left.dtype
        if dtype.itemsize > 4:
            return LOWERINGS["independent"][which](left, right, geo)
        shape = _shape(which, left.shape, right.shape, geo)
        out = native.call(which, *(a.astype(jnp.float32) for a in (left, right)), shape, geo.stride, geo.padding, lanes)
        return out.astype(dtype)

    return tuple(functools.partial(run, which) for which in range(3))


LOWERINGS = {
    **{name: _native(lanes) for name, lanes in native.LANES.items()},
    "independent": tuple(map(_independent, (_forward, _image_gradient, _kernel_gradient))),
    "grouped": tuple(map(_grouped, (_forward, _image_gradient, _kernel_gradient))),
    "taps": (_taps_forward, _taps_image_gradient, _taps_kernel_gradient),
}


def default_lowering(platform: str | None) -> str:
    """The lowering that ``convolve`` takes on a platform.

    CPU: the native program, where it was built. Elsewhere batched matrix products, which every vendor tunes, and which
    are as fast backwards as forwards; a grouped convolution's kernel gradient is not (JAX issue 13800). That choice
    has been measured on CPUs only.
    """
    if platform == "cpu":
        return "native" if native.available() else "independent"
    return "taps"


# ---- The primitives

# Of each primitive: the free axis of either operand (the axis that the other operand does not have) and where it is in
# the output. Operands are images (G, N, H, W, I), kernels (G, h, w, I, O), outputs (G, N, H', W', O).
_FREE = ((1, 1), (-1, -1)), ((1, 1), (-2, -1)), ((-1, -2), (-1, -1))


def _shape(which, left, right, geo):
    if which == 0:
        return (*left[:2], *geo.output, right[-1])
    if which == 1:
        return (*left[:2], *geo.image, right[-2])
    return (left[0], *geo.kernel, left[-1], right[-1])


def _make(which, name):
    primitive = Primitive(name)

    @functools.cache
    def compiled(geometry, lowering):
        return jax.jit(lambda left, right: primitive.bind(left, right, geometry=geometry, lowering=lowering))

    primitive.def_impl(lambda left, right, **static: compiled(**static)(left, right))
    primitive.def_abstract_eval(
        lambda left, right, geometry, lowering: left.update(shape=_shape(which, left.shape, right.shape, geometry))
    )

    def lower(platform):
        def run(left, right, *, geometry, lowering):
            chosen = lowering or default_lowering(platform)
            if chosen.startswith("native") and platform != "cpu":
                raise ValueError(f"lowering {chosen!r} is a program for CPUs; on other platforms use None")
            if left.shape[0] == 1 and not chosen.startswith("native"):  # a shared kernel: one ordinary convolution
                return (_forward, _image_gradient, _kernel_gradient)[which](left[0], right[0], geometry)[None]
            return LOWERINGS[chosen][which](left, right, geometry)

        mlir.register_lowering(primitive, mlir.lower_fun(run, multiple_results=False), platform=platform)

    for platform in ("cpu", None):
        lower(platform)

    def batch(operands, dims, **static):
        if None not in dims:  # more groups
            operands = [jnp.moveaxis(a, d, 0) for a, d in zip(operands, dims, strict=True)]
            size, groups = operands[0].shape[:2]
            out = primitive.bind(*(a.reshape(-1, *a.shape[2:]) for a in operands), **static)
            return out.reshape(size, groups, *out.shape[1:]), 0
        # one operand only: its free axis gets longer, batch-major
        side = 0 if dims[1] is None else 1
        a, (axis, out_axis) = operands[side], _FREE[which][side]
        size, axis = a.shape[dims[side]], axis % (a.ndim - 1)
        a = jnp.moveaxis(a, dims[side], axis)
        a = a.reshape(*a.shape[:axis], -1, *a.shape[axis + 2 :])
        out = primitive.bind(*((a, operands[1]) if side == 0 else (operands[0], a)), **static)
        out_axis %= out.ndim
        return out.reshape(*out.shape[:out_axis], size, -1, *out.shape[out_axis + 1 :]), out_axis

    batching.primitive_batchers[primitive] = batch
    return primitive


forward_p, image_gradient_p, kernel_gradient_p = map(
    _make, range(3), ("puppet_convolution", "puppet_image_gradient", "puppet_kernel_gradient")
)
ad.defbilinear(
    forward_p,
    lambda ct, image, kernel, **static: image_gradient_p.bind(ct, kernel, **static),
    lambda ct, image, kernel, **static: kernel_gradient_p.bind(image, ct, **static),
)
ad.defbilinear(
    image_gradient_p,
    lambda ct, cotangent, kernel, **static: forward_p.bind(ct, kernel, **static),
    lambda ct, cotangent, kernel, **static: kernel_gradient_p.bind(ct, cotangent, **static),
)
ad.defbilinear(
    kernel_gradient_p,
    lambda ct, image, cotangent, **static: image_gradient_p.bind(cotangent, ct, **static),
    lambda ct, image, cotangent, **static: forward_p.bind(image, ct, **static),
)
