"""Integers as callers have them, Python's or NumPy's, made Python's where they come in."""

import operator
from collections.abc import Sequence
from typing import Any


def integer(value: Any, name: str, least: int = 1) -> int:
    """Return an integer as Python's; ``ValueError`` if ``name`` is none or below ``least``."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def image_shape_of(shape: Sequence[int], caller: str) -> tuple[int, int, int]:
    """Return (H, W, C) of images as Python's integers; ``ValueError`` if it is none."""
    try:
        height, width, channels = (integer(size, "a size") for size in shape)
    except (TypeError, ValueError):
        text = f"image_shape must be (height, width, channels), all positive, got {shape}"
        raise ValueError(f"{caller}: {text}") from None
    return height, width, channels
