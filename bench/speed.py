"""``python -m bench speed``: how long things take, beside PyTorch, static twins and plain lowerings."""

import dataclasses
import functools
from typing import Annotated, Literal

import tyro

from bench import command

# Part -> module.
PARTS = {
    **dict.fromkeys(("predict", "train", "generate", "first_answer"), "comparison"),
    "scaling": "scaling",
    "export": "export",
    "folder": "folder",
    "puppetize": "puppetize",
    "trainer": "trainer",
}


@dataclasses.dataclass(frozen=True)
class Speed(command.Options):
    """Time prediction, training and generation beside peers; exponents; exports, folders, any CNN, the trainer."""

    parts: Annotated[tuple[Literal[tuple(PARTS)], ...], tyro.conf.Positional] = ()  # type: ignore[valid-type]
    """What to measure; none: everything. Of predict, train, generate and first_answer, which share a result,
    those not asked for stay in it."""


run = functools.partial(command.run, parts=PARTS)
