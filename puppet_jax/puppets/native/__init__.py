"""The per-sample convolution's CPU programs: ``convolution.cc`` as XLA custom calls (jax.ffi), where it was built.

It is built when the package is installed, if there is a C++ compiler. :func:`available` tells; without it, CPUs get
XLA's own convolutions (``"independent"`` in ``puppet_jax/puppets/primitives.py``).
"""

import ctypes
import functools
import importlib.machinery
from pathlib import Path

import jax
import numpy as np

LANES = {"native": 16, "native_8": 8, "native_4": 4}
"""Lowerings by name, and the floats in their vectors at most; the processor may have shorter ones."""

_MAPS = ("forward", "image_gradient", "kernel_gradient")
_MIXED = ("mixed_forward", "mixed_gradient", "turn")


@functools.cache
def available() -> bool:
    """Whether the library was built; registers its programs with XLA the first time."""
    here = Path(__file__).parent
    found = [
        path for suffix in importlib.machinery.EXTENSION_SUFFIXES if (path := here / f"_convolution{suffix}").exists()
    ]
    if not found:
        return False
    library = ctypes.CDLL(str(found[0]))
    for name in (*_MAPS, *_MIXED):
        handler = jax.ffi.pycapsule(getattr(library, f"puppet_jax_{name}"))
        jax.ffi.register_ffi_target(f"puppet_jax_{name}", handler, platform="cpu")
    return True


def call(which: int, left, right, shape: tuple[int, ...], stride, padding, lanes: int = 16):
    """One of the three maps (see ``primitives.py``) of float32 operands, with vectors of at most ``lanes`` floats."""
    (top, _), (left_edge, _) = padding
    numbers = {"stride_h": stride[0], "stride_w": stride[1], "top": top, "left": left_edge, "lanes": lanes}
    return _run(_MAPS[which], shape, left, right, **numbers)


def mixed_forward(images, weights, table, shape: tuple[int, ...], stride, before, step, lanes: int = 16):
    """Images, their pixels ``step`` apart after ``before`` zeros, with kernels of a table (see ``mixed.py``)."""
    numbers = {"stride_h": stride[0], "stride_w": stride[1], "top": before[0], "left": before[1]}
    numbers |= {"step_h": step[0], "step_w": step[1], "lanes": lanes}
    return _run("mixed_forward", shape, images, weights, table, **numbers)


def mixed_gradient(padded, cotangents, weights, shape: tuple[int, ...], stride, lanes: int = 16):
    """The table's gradient from padded images; the cotangents' channels are a multiple of ``lanes``."""
    numbers = {"stride_h": stride[0], "stride_w": stride[1], "lanes": lanes}
    return _run("mixed_gradient", shape, padded, cotangents, weights, **numbers)


def turn(table):
    """A table's kernels (M, K_h, K_w, C_in, C_out) turned by 180 degrees, as (M, K_h, K_w, C_out, C_in)."""
    return _run("turn", (*table.shape[:3], table.shape[4], table.shape[3]), table)


def _run(name: str, shape: tuple[int, ...], *operands, **numbers):
    run = jax.ffi.ffi_call(f"puppet_jax_{name}", jax.ShapeDtypeStruct(shape, operands[0].dtype))
    return run(*operands, **{name: np.int64(value) for name, value in numbers.items()})
