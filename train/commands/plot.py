"""``python -m train plot RUN…``: several runs compared, in one figure and one table."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from train import atomic_file
from train.config import shown
from train.errors import UserError
from train.runs.reading import Description, Epoch, Summary, read_json, read_metrics
from train.terminal import printable, table

SUFFIXES = (".png", ".svg", ".pdf")
HEADER = ("run", "epochs", "accuracy", "loss", "parameters", "compression", "s/epoch", "state")


@dataclass(frozen=True)
class Plot:
    """Compare runs: their learning curves and their accuracy against stored parameters, and a table of the results.

    Runs are labelled by their folders. An unfinished run is shown as far as it got. A run that cannot be read is named
    on standard error and the rest are compared; the exit code then is 1.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, shown("RUN...")]
    """Folders that python -m train left."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("comparison.png")
    """The figure, replaced if there is one; of the kind that its suffix says: .png, .svg or .pdf."""


class ComparedRun(NamedTuple):
    """What is compared of a run: its name, its epochs (at least one), and where it has ended its result, else that of
    its last epoch."""

    name: str
    epochs: Sequence[Epoch]
    evaluated_on: str
    accuracy: float
    loss: float
    parameters: int | None
    compression: float | None
    state: str


def run(options: Plot) -> int:
    """Read, draw, print. 0, or 1 if a run could not be read."""
    if options.out.suffix.lower() not in SUFFIXES:
        raise UserError(f"--out: got {printable(options.out)}, expected a name that ends in {', '.join(SUFFIXES)}")
    if not options.runs:
        raise UserError("RUN: got none, expected folders that python -m train left")
    runs: list[ComparedRun] = []
    failed = False
    for folder in {os.path.realpath(folder): folder for folder in options.runs}.values():  # each once
        try:
            runs.append(_read(folder))
        except UserError as error:
            failed = True
            print(f"left out: {error}", file=sys.stderr)
    if not runs:
        raise UserError("RUN: none of them can be compared, expected folders that python -m train left")
    from train.plots import comparison  # matplotlib takes a second to import

    try:
        with atomic_file.replacing(options.out) as temporary:
            comparison.draw(temporary, runs)
    except OSError as error:
        raise UserError(f"--out: {printable(options.out)} cannot be written ({error.strerror})") from error
    print(table(HEADER, list(map(_row, runs)), (False, True, True, True, True, True, True, False)))
    print(f"\nfigure: {printable(options.out)}")
    return int(failed)


def _read(folder: Path) -> ComparedRun:
    epochs, damaged = read_metrics(folder / "metrics.jsonl")
    if not epochs:
        raise UserError(f"{printable(folder)}: no epoch in its metrics.jsonl that can be read")
    notes = []
    summary, config = None, {}
    try:
        config = read_json(folder / "config.json", Description).config
    except UserError:
        notes += ["config.json damaged"] if (folder / "config.json").exists() else []
    try:
        summary = read_json(folder / "summary.json", Summary)
    except UserError:
        notes.append(f"unfinished, epoch {epochs[-1].epoch} of {printable(config.get('epochs', '?'))}")
        notes += ["summary.json damaged"] if (folder / "summary.json").exists() else []
    notes += [f"{len(damaged)} damaged lines"] if damaged else []
    last = summary or epochs[-1]
    return ComparedRun(
        printable(folder),
        epochs,
        evaluated_on="validation" if config.get("evaluate_on") == "validation" else "test",
        accuracy=last.test_accuracy,
        loss=last.test_loss,
        parameters=summary.parameters["total"] if summary else None,
        compression=summary.compression if summary else None,
        state="; ".join(notes) or "finished",
    )


def _row(run: ComparedRun) -> tuple[str, ...]:
    return (
        run.name,
        str(run.epochs[-1].epoch),
        f"{run.accuracy:.2%}",
        f"{run.loss:.4f}",
        "–" if run.parameters is None else f"{run.parameters:,}",
        "–" if run.compression is None else f"{run.compression:.2f}x",
        f"{sum(epoch.seconds for epoch in run.epochs) / len(run.epochs):.1f}",
        run.state,
    )
