"""The C++ program for CPUs, ``convolution.cc`` as XLA custom calls (jax.ffi), where it was built.

It is built when the package is installed, if there is a C++ compiler. :func:`available` tells; without it, CPUs get
XLA's matrix products (``"gathered"`` in ``_lowerings.py``).
"""

import ctypes
import functools
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

LANES = {"native": 16, "native_8": 8, "native_4": 4}
"""Lowerings by name, and the floats in their vectors at most; the processor may have shorter ones."""

_MAPS = ("forward", "image_gradient", "kernel_gradient")
NAMES = (*_MAPS, *(f"depthwise_{name}" for name in _MAPS), "layer", "finish", "finish_gradient")
"""Of the program's functions, each of which is the primitive of that name in ``_primitives.py``."""


@functools.cache
def available() -> bool:
    """Tell whether the C++ program was built, with a warning if not. The first call registers it with XLA."""
    here = Path(__file__).parent
    found = [path for suffix in importlib.machinery.EXTENSION_SUFFIXES if (path := here / f"_program{suffix}").exists()]
    if not found:
        if sys.platform != "win32":
            _warn("was not built when the package was installed: there was no C++ compiler (GCC 11, Clang or later)")
        return False
    library = ctypes.CDLL(str(found[0]))
    if not all(hasattr(library, f"puppet_jax_{name}") for name in NAMES):
        _warn(f"({found[0].name}) is of another version, built in place, and not used")
        return False
    register(library)
    return True


def _warn(reason: str) -> None:
    warnings.warn(
        f"puppet_jax's C++ program for CPUs {reason}. Convolutions run several times slower; install puppet-jax again",
        stacklevel=4,
    )


def register(library: ctypes.CDLL) -> None:
    """Let XLA call the program."""
    for name in NAMES:
        handler = jax.ffi.pycapsule(getattr(library, f"puppet_jax_{name}"))
        jax.ffi.register_ffi_target(f"puppet_jax_{name}", handler, platform="cpu")


def call(
    name: str,
    operands: Sequence[Array],
    shapes: list[tuple[int, ...]],
    lanes: int,
    *,
    geometry=None,
    sets=None,
    **numbers,
) -> Sequence[Array]:
    """Call one of ``NAMES``, in float32: bfloat16 is computed in it, as XLA:CPU does too.

    An index that is neither −1 nor a place in the bank is an error when the program runs.

    Args:
        name: of the function.
        operands: as the primitive takes them.
        shapes: of the results.
        lanes: floats in a vector at most.
        geometry, sets, numbers: what is static for the primitive.
    """
    del sets  # the bank's shape says it
    operands = [a if a.dtype == jnp.int32 else a.astype(jnp.float32) for a in operands]
    attributes = {"lanes": lanes, **numbers}
    if geometry is not None:
        (stride_h, stride_w), ((top, _), (left, _)) = geometry.stride, geometry.padding
        attributes |= {"stride_h": stride_h, "stride_w": stride_w, "top": top, "left": left}
    run = jax.ffi.ffi_call(f"puppet_jax_{name}", [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes])
    typed = {key: (np.float32 if isinstance(value, float) else np.int64)(value) for key, value in attributes.items()}
    return run(*operands, **typed)
