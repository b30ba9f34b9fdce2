"""One line of the study, and what all of its runs share."""

import dataclasses
import json
from typing import Any

RECIPE = {"data": "cifar10", "preset": "puppet_s", "batch-size": 64}
# What short training wants, found in the third round of the design. A crop brings in a black border, which changes the
# complexity that the kernels are generated from; a mirrored image keeps its own.
FLIP = {"augment": "flip"}
# 5,000 of the 50,000 training images.
VALIDATION = {"evaluate-on": "validation", "validation-share": 0.1}


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table: runs that differ in their seed alone.

    Attributes:
        name: of the row, unique.
        part: ``"design"``, ``"ablation"`` or ``"main"``.
        what: where the kernels come from, for a reader.
        puppeteer: as ``python -m train`` takes it.
        options: of the puppeteer.
        width: channels of every layer.
        epochs: passes over the training images.
        optimiser: as ``python -m train`` takes it.
        learning_rate: its peak.
        more: further flags.
        seeds: of the runs.
    """

    name: str
    part: str
    what: str
    puppeteer: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    width: int = 32
    epochs: int = 2
    optimiser: str = "adamw"
    learning_rate: float = 4e-3
    more: dict[str, Any] = dataclasses.field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)

    def flags(self) -> list[str]:
        """The arguments of ``python -m train``, without seed and folder."""
        values = {
            **RECIPE,
            "width": self.width,
            "puppeteer": self.puppeteer,
            "epochs": self.epochs,
            "optimiser": self.optimiser,
            "learning-rate": self.learning_rate,
            **({"puppeteer-options": json.dumps(self.options)} if self.options else {}),
            **({} if self.part == "main" else VALIDATION),
            **self.more,
        }
        return [f"--{name}={value}" for name, value in values.items()]
