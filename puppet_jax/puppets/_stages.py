"""Stages of a puppet whose widths grow and whose maps shrink: their specification, and the blocks it comes to."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from puppet_jax.any_cnn._depth_levels import levels_of
from puppet_jax.puppeteers._base import KernelShape

BlockKind = Literal["residual", "convolution"]


@dataclasses.dataclass(frozen=True)
class StageSpec:
    """A stage: its entrance, which always runs, and blocks that an image may skip.

    Attributes:
        width: channels.
        blocks: n_s, how many blocks follow the entrance; 0 or more.
        stride: how many times smaller the entrance makes the map; 1 leaves it.
        kernel_size: K of the K×K kernels; SAME padding.

    Raises:
        ValueError: ``blocks`` below 0, or another size below 1.
    """

    width: int
    blocks: int
    stride: int = 1
    kernel_size: int = 3

    def __post_init__(self):
        for name, least in (("width", 1), ("blocks", 0), ("stride", 1), ("kernel_size", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"StageSpec: {name} must be an integer >= {least}, got {value!r}")


@dataclasses.dataclass(frozen=True)
class Block:
    """What an image goes through or passes as a whole.

    Attributes:
        kind: ``"stem"`` is the first stage's entrance.
        convolutions: the numbers of its convolutions, from 0.
        stride: how many times smaller it makes the map.
        level: the least depth D that runs it.
    """

    kind: Literal["stem", "residual", "convolution"]
    convolutions: tuple[int, ...]
    stride: int
    level: int


def blocks_of(stages: Sequence[StageSpec], kind: BlockKind, max_depth: int) -> tuple[Block, ...]:
    """Every stage's entrance and blocks, in the order in which they run; depths are 1 … ``max_depth``."""
    blocks: list[Block] = []
    count = 0

    def add(kind, stride, level):
        nonlocal count
        size = 2 if kind == "residual" else 1
        blocks.append(Block(kind, tuple(range(count, count + size)), stride, level))
        count += size

    levels = levels_of([stage.blocks for stage in stages], max_depth)
    for index, (stage, of_stage) in enumerate(zip(stages, levels, strict=True)):
        add(kind if index else "stem", stage.stride, 1)
        for level in of_stage:
            add(kind, 1, level)
    return tuple(blocks)


def kernel_shapes(stages: Sequence[StageSpec], kind: BlockKind, in_channels: int) -> tuple[KernelShape, ...]:
    """(C_out, C_in, K, K) of each convolution, in the order in which they run."""
    shapes, c_in = [], in_channels
    for index, stage in enumerate(stages):
        size = 2 if kind == "residual" else 1
        convolutions = stage.blocks * size + (size if index else 1)
        for _ in range(convolutions):
            shapes.append((stage.width, c_in, stage.kernel_size, stage.kernel_size))
            c_in = stage.width
    return tuple(shapes)


def least_size(stages: Sequence[StageSpec]) -> int:
    """Height and width below which some stage would be left with less than one full stride."""
    size = 1
    for stage in stages:
        size *= stage.stride
    return size
