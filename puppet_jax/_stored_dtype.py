"""Parameters stored in fewer bits than they are computed with: float16, or int8 with a scale for each row."""

from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

StoredDtype = Literal["float32", "float16", "int8"]
SCALES = "/scales"
"""What the name of an int8 array's scales ends with; no parameter's name has a slash."""


def pack(arrays: Mapping[str, np.ndarray], dtype: StoredDtype) -> dict[str, np.ndarray]:
    """Arrays as they are stored.

    Args:
        arrays: by name. Those of other types than float32 stay as they are.
        dtype: ``"int8"`` stores an array of two axes or more as integers from -127 to 127 and a float16 for each
            index of its first axis, ``NAME/scales``, which they are multiplied by; other arrays as float16.

    Raises:
        ValueError: a number that float16 cannot hold.
    """
    packed: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if array.dtype != np.float32 or dtype == "float32":
            packed[name] = array
        elif dtype == "int8" and array.ndim > 1:
            rows = array.reshape(len(array), -1)
            scales = _half(name, np.abs(rows).max(1) / 127)
            # A scale rounded down would clip the largest number; a scale of zero belongs to a row of zeros.
            wide = np.maximum(scales.astype(np.float32), np.finfo(np.float16).tiny)[:, None]
            packed[name] = np.clip(np.rint(rows / wide), -127, 127).astype(np.int8).reshape(array.shape)
            packed[name + SCALES] = wide[:, 0].astype(np.float16)
        else:
            packed[name] = _half(name, array)
    return packed


def unpack(packed: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays by name, those of float16 and int8 as float32. Takes NumPy's and JAX's arrays."""
    arrays = {}
    for name, array in packed.items():
        if name.endswith(SCALES):
            continue
        scales = packed.get(name + SCALES)
        if scales is not None:
            scales = scales.astype(np.float32).reshape(-1, *[1] * (array.ndim - 1))
            arrays[name] = array.astype(np.float32) * scales
        else:
            arrays[name] = array.astype(np.float32) if array.dtype == jnp.float16 else array
    return arrays


def _half(name: str, array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError(f"{name} holds {np.abs(array).max():g}, too much for float16; store float32")
    return half
