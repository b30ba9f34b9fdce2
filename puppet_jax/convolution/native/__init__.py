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

LANES = {"native": 32, "native_16": 16, "native_8": 8, "native_4": 4}
"""Lowerings by name, and the floats in their vectors at most; 32: numbers of bfloat16 in the rows of AMX's tiles. The
processor may have shorter ones."""

_MAPS = ("forward", "image_gradient", "kernel_gradient")
NAMES = (
    *_MAPS,
    *(f"depthwise_{name}" for name in _MAPS),
    *("layer", "finish", "finish_gradient", "factors", "factors_gradient"),
)
"""Of the program's functions, each of which is the primitive of that name in ``_primitives.py`` or ``_factors.py``."""
_MAY_BE_BFLOAT16 = {
    **dict.fromkeys(("forward", "image_gradient", "depthwise_forward", "depthwise_image_gradient", "layer"), (0,)),
    "finish": (0, 2),
}  # operands, all of them or none, and with them the first result
_SYMBOLS = (*NAMES, *(f"{name}_bfloat16" for name in _MAY_BE_BFLOAT16))


def _file() -> Path | None:
    places = (Path(__file__).with_name(f"_program{suffix}") for suffix in importlib.machinery.EXTENSION_SUFFIXES)
    return next((each for each in places if each.exists()), None)


def instructions() -> str:
    """Tell what the C++ program uses of the processor at most: AMX, AVX-512, AVX2 or baseline."""
    tell = ctypes.CDLL(str(_file())).puppet_jax_instructions
    tell.restype = ctypes.c_char_p
    return tell(ctypes.c_int64(max(LANES.values()))).decode()


@functools.cache
def available() -> bool:
    """Tell whether the C++ program was built, with a warning if not. The first call registers it with XLA."""
    file = _file()
    if file is None:
        if sys.platform != "win32":
            _warn("was not built when the package was installed: there was no C++ compiler (GCC 11, Clang or later)")
        return False
    library = ctypes.CDLL(str(file))
    if not all(hasattr(library, f"puppet_jax_{name}") for name in _SYMBOLS):
        _warn(f"({file.name}) is of another version, built in place, and not used")
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
    for name in _SYMBOLS:
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
    """Call one of ``NAMES``. Its operands become float32, but images of bfloat16 stay what they are where the program
    takes them.

    An index that is neither −1 nor a place in the bank is an error when the program runs.

    Args:
        name: of the function.
        operands: as the primitive takes them.
        shapes: of the results.
        lanes: as ``LANES`` says.
        geometry, sets, numbers: what is static for the primitive.
    """
    del sets  # the bank's shape says it
    bfloat16 = _MAY_BE_BFLOAT16.get(name, ()) if operands[0].dtype == jnp.bfloat16 else ()
    types = [jnp.bfloat16 if i in bfloat16 else jnp.float32 for i in range(len(operands))]
    operands = [a if a.dtype == jnp.int32 else a.astype(dtype) for a, dtype in zip(operands, types, strict=True)]
    attributes = {"lanes": lanes, **numbers}
    if geometry is not None:
        (stride_h, stride_w), ((top, _), (left, _)) = geometry.stride, geometry.padding
        attributes |= {"stride_h": stride_h, "stride_w": stride_w, "top": top, "left": left}
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    results[0] = results[0].update(dtype=types[0])
    run = jax.ffi.ffi_call(f"puppet_jax_{name}{'_bfloat16' if bfloat16 else ''}", results)
    typed = {key: (np.float32 if isinstance(value, float) else np.int64)(value) for key, value in attributes.items()}
    return run(*operands, **typed)
