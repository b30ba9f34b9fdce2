"""``python -m bench memory``: the peak of a training step, and what training gains from huge pages."""

import dataclasses
import functools
from typing import Annotated, Literal

import tyro

from bench import command

# Part -> module.
PARTS = {"step": "step_memory", "pages": "huge_pages"}


@dataclasses.dataclass(frozen=True)
class Memory(command.Options):
    """Compare the peak memory of a training step by how kernels are computed; and training with huge pages."""

    parts: Annotated[tuple[Literal[tuple(PARTS)], ...], tyro.conf.Positional] = ()  # type: ignore[valid-type]
    """What to measure; none: everything."""


run = functools.partial(command.run, parts=PARTS)
