"""Layer specifications: what one layer of a puppet looks like, and what a list of them does to shapes."""

import dataclasses
from collections.abc import Sequence

from puppet_jax.puppeteers._base import KernelShape


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """One convolution layer.

    Attributes:
        width: C_out.
        kernel_size: K of the K×K kernel; SAME padding.
        stride: of the convolution.
        pool: window and stride of the average pooling after the layer; 1 for none. Rows and columns that do not fill
            a window are dropped.

    Raises:
        ValueError: a size below 1.
    """

    width: int
    kernel_size: int = 3
    stride: int = 1
    pool: int = 1

    def __post_init__(self):
        for name in ("width", "kernel_size", "stride", "pool"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"LayerSpec: {name} must be an integer >= 1, got {value!r}")


def kernel_shapes(layers: Sequence[LayerSpec], in_channels: int) -> tuple[KernelShape, ...]:
    """(C_out, C_in, K, K) of each layer, the first reading ``in_channels`` channels."""
    widths = [in_channels, *(layer.width for layer in layers)]
    return tuple(
        (layer.width, c_in, layer.kernel_size, layer.kernel_size)
        for layer, c_in in zip(layers, widths[:-1], strict=True)
    )


def least_size(layers: Sequence[LayerSpec]) -> int:
    """Height and width below which some layer would be left with less than one full stride or pooling window."""
    size = 1
    for layer in layers:
        size *= layer.stride * layer.pool
    return size
