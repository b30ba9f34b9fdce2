"""Where a trained model lies that a command is given: as :func:`puppet_jax.load_pretrained` looks for it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from train.config import shown
from train.errors import UserError
from train.terminal import printable

if TYPE_CHECKING:
    import puppet_jax as pj

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


@dataclass(frozen=True)
class OfPredictor(OfModel):
    """The options of a command that predicts."""

    depth: Annotated[int | None, shown("INT")] = field(default=None, kw_only=True)
    """Let every image leave after so many layers, one of the depths that the model was trained to leave at (default:
    as the model measures)."""
    confidence: Annotated[float | None, shown("FLOAT")] = field(default=None, kw_only=True)
    """Let an image leave at the first of these depths where its largest probability reaches this, in (0, 1]."""

    def compiled(self, model: "pj.PuppetCNN") -> "pj.Predictor":
        """What :func:`puppet_jax.compile_predict` makes of the model; refused if it cannot leave so."""
        import puppet_jax as pj

        try:
            return pj.compile_predict(model, depth=self.depth, confidence=self.confidence)
        except ValueError as error:
            raise UserError(f"{self.leaving()}: {str(error).removeprefix('compile_predict: ')}") from error

    def leaving(self) -> str:
        """The flags that were given of these."""
        flags = {"--depth": self.depth, "--confidence": self.confidence}
        return " ".join(f"{flag} {value}" for flag, value in flags.items() if value is not None)


def locate(name: str | Path) -> Path:
    """The folder of a run, or the file of a released or pretrained model; refused if it is none of these."""
    from puppet_jax import _pretrained  # which imports jax

    try:
        return _pretrained.locate(name)
    except ValueError as error:
        raise UserError(printable(str(error))) from error
