"""Parameters stored in fewer bits than they are computed with: float16, or int8 with a scale for each row."""

from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

StoredDtype = Literal["float32", "float16", "int8"]
SCALES = "/scales"
"""What the name of an int8 array's scales ends with; no parameter's name has a slash."""

_HALF = float(np.finfo(np.float16).tiny), float(np.finfo(np.float16).max)


def pack(arrays: Mapping[str, np.ndarray], dtype: StoredDtype) -> dict[str, np.ndarray]:
    """Arrays, by name, as they are stored; those of other types than float32 stay as they are.

    ``"int8"`` stores an array of two axes or more as :func:`quantised` has it, the scales as ``NAME/scales``, and other
    arrays as float16. ``ValueError`` if float16 cannot hold a number.
    """
    packed: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if array.dtype != np.float32 or dtype == "float32":
            packed[name] = array
        elif dtype == "int8" and array.ndim > 1:
            _half(name, array / 127)  # refuses what no scale reaches
            packed[name], packed[name + SCALES] = quantised(array, 8)
        else:
            packed[name] = _half(name, array)
    return packed


def quantised(array: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """A float32 array rounded to integers of so many bits, with a scale for each index of its first axis.

    A row's scale is, of 21 from half to all of what its greatest number asks for, that of the least squared error: a
    few clipped numbers may cost less than coarser steps for all. Returns int8 of the array's shape, within
    ±(2**(bits - 1) - 1), and the scales that they are multiplied by, float16.
    """
    rows, most = array.reshape(len(array), -1), 2 ** (bits - 1) - 1
    integers, scales = np.zeros(rows.shape, np.int8), np.zeros(len(rows), np.float16)
    error = np.full(len(rows), np.inf)
    for share in np.linspace(0.5, 1.0, 21):
        tried = np.clip(share * np.abs(rows).max(1) / most, *_HALF).astype(np.float16)
        wide = tried.astype(np.float32)[:, None]
        found = np.clip(np.rint(rows / wide), -most, most)
        of_found = np.sum((found * wide - rows) ** 2, axis=1)
        better = of_found < error
        integers[better], scales[better], error[better] = found[better], tried[better], of_found[better]
    return integers.reshape(array.shape), scales


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
