"""The per-sample convolution's CPU programs: ``convolution.cc`` as XLA custom calls (jax.ffi), where it was built.

It is built when the package is installed, if there is a C++ compiler. :func:`available` tells; without it, CPUs get
XLA's matrix products (``"gathered"`` in ``puppet_jax/convolution/_lowerings.py``).
"""

import ctypes
import functools
import importlib.machinery
import warnings
from pathlib import Path

import jax
import numpy as np

from puppet_jax.convolution._group_norm import EPSILON

LANES = {"native": 16, "native_8": 8, "native_4": 4}
"""Lowerings by name, and the floats in their vectors at most; the processor may have shorter ones."""

_OF_CONVOLUTION = ("forward", "image_gradient", "kernel_gradient")
MAPS = (*_OF_CONVOLUTION, *(f"depthwise_{name}" for name in _OF_CONVOLUTION))
NAMES = (*MAPS, "layer", "finish", "finish_gradient")
"""Of the programs."""


@functools.cache
def available() -> bool:
    """Whether the C++ program was built. The first call registers it with XLA."""
    here = Path(__file__).parent
    found = [
        path for suffix in importlib.machinery.EXTENSION_SUFFIXES if (path := here / f"_convolution{suffix}").exists()
    ]
    if not found:
        return False
    library = ctypes.CDLL(str(found[0]))
    names = [f"puppet_jax_{name}" for name in NAMES]
    if not all(hasattr(library, name) for name in names):  # an older version's, built in place
        warnings.warn(f"{found[0].name} is of another version and not used; install puppet-jax again", stacklevel=2)
        return False
    for name in names:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    return True


def call(name: str, operands, shape: tuple[int, ...], stride, padding, lanes: int = 16):
    """One of ``MAPS`` (see ``bank_convolution.py``) of float32 operands and an int32 index, with vectors of at
    most ``lanes`` floats. An index that is neither −1 nor a place in the bank is an error when the program runs."""
    run = jax.ffi.ffi_call(f"puppet_jax_{name}", jax.ShapeDtypeStruct(shape, np.float32))
    return run(*operands, **_geometry(stride, padding, lanes))


def layer(operands, shape: tuple[int, ...], stride, padding, groups: int, relu: bool, residual: bool, lanes: int = 16):
    """A whole layer (see ``layer.py``): its output, and the means over its map."""
    numbers = {**_geometry(stride, padding, lanes), **_numbers(groups, relu, lanes), "residual": np.int64(residual)}
    return jax.ffi.ffi_call("puppet_jax_layer", _like(shape, 1))(*operands, **numbers)


def finish(operands, *, groups: int, relu: bool, residual: bool, lanes: int, epsilon: float = EPSILON):
    """What a layer does after its convolution (see ``finish.py``): its output, and the means over its map."""
    numbers = {**_numbers(groups, relu, lanes, epsilon), "residual": np.int64(residual)}
    return jax.ffi.ffi_call("puppet_jax_finish", _like(operands[0].shape, 1))(*operands, **numbers)


def finish_gradient(operands, *, groups: int, relu: bool, lanes: int, epsilon: float = EPSILON):
    """Its gradient: of the map, and of scale and shift each image's part."""
    run = jax.ffi.ffi_call("puppet_jax_finish_gradient", _like(operands[0].shape, 2))
    return run(*operands, **_numbers(groups, relu, lanes, epsilon))


def _like(shape: tuple[int, ...], vectors: int):
    """Maps of this shape, and so many vectors of a number for each image and channel."""
    vector = jax.ShapeDtypeStruct((shape[0], shape[-1]), np.float32)
    return [jax.ShapeDtypeStruct(shape, np.float32), *[vector] * vectors]


def _numbers(groups, relu, lanes, epsilon=EPSILON):
    return {
        "groups": np.int64(groups),
        "relu": np.int64(relu),
        "lanes": np.int64(lanes),
        "epsilon": np.float32(epsilon),
    }


def _geometry(stride, padding, lanes):
    (top, _), (left, _) = padding
    numbers = {"stride_h": stride[0], "stride_w": stride[1], "top": top, "left": left, "lanes": lanes}
    return {name: np.int64(value) for name, value in numbers.items()}
