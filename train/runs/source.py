"""Where a trained model lies that a command is given: as :func:`puppet_jax.load_pretrained` looks for it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from train.config import shown
from train.errors import UserError
from train.terminal import printable

BEST = "best.safetensors"
"""The file of a run's folder that has the parameters of the epoch whose accuracy was best."""


@dataclass(frozen=True)
class OfModel:
    """The options of a command that uses a trained model."""

    run: Annotated[Path, tyro.conf.Positional, shown("RUN")]
    """Folder that python -m train left, the name of a pretrained model, or a released .safetensors file."""
    best: bool = field(default=False, kw_only=True)
    """Of a run, take the parameters of the epoch with the best accuracy instead of the last."""

    def located(self) -> Path:
        """What :func:`locate` finds; with ``best`` the file of the best parameters, refused if there is none."""
        found = locate(self.run)
        if self.best and not (found / BEST).is_file():
            raise UserError(
                f"--best: {printable(found)} has no {BEST}, which a run's folder has after its first epoch; leave "
                "--best out"
            )
        return found / BEST if self.best else found


def locate(name: str | Path) -> Path:
    """The folder of a run, or the file of a released or pretrained model; refused if it is none of these."""
    from puppet_jax import _pretrained  # which imports jax

    try:
        return _pretrained.locate(name)
    except ValueError as error:
        raise UserError(printable(str(error))) from error
