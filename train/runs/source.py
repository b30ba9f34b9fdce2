"""Where a trained model lies that a command is given: as :func:`puppet_jax.load_pretrained` looks for it."""

from pathlib import Path

from train.errors import UserError
from train.terminal import printable


def locate(name: str | Path) -> Path:
    """The folder of a run, or the file of a released or pretrained model; refused if it is none of these."""
    from puppet_jax import _pretrained  # which imports jax

    try:
        return _pretrained.locate(name)
    except ValueError as error:
        raise UserError(printable(str(error))) from error
