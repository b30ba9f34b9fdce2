"""``python -m train plot RUN…``: several runs compared, in one figure and one table."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from train import atomic_file
from train.errors import UserError
from train.plots.compared_run import ComparedRun, labels, read_run
from train.terminal import printable, table

SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Plot:
    """Compare runs: their learning curves and their accuracy against stored parameters, and a table of the results.

    Runs are labelled by what differs between their configurations. An unfinished run is shown as far as it got. A run
    that cannot be read is named on standard error and the rest are compared; the exit code then is 1.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...", help_behavior_hint="")]
    """Folders that python -m train left."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("comparison.png")
    """The figure, replaced if there is one; of the kind that its suffix says: .png, .svg or .pdf."""
    against: Literal["epoch", "seconds"] = "epoch"
    """What the curves are drawn against: the epoch, or the seconds spent in training steps."""


def run(options: Plot) -> int:
    """Read, draw, print. 0, or 1 if a run could not be read."""
    if options.out.suffix.lower() not in SUFFIXES:
        raise UserError(f"--out: got {printable(options.out)}, expected a name that ends in {', '.join(SUFFIXES)}")
    if not options.runs:
        raise UserError("RUN: got none, expected folders that python -m train left")
    runs = compare(options.runs, options.out, options.against)
    return 0 if len(runs) == len(_distinct(options.runs)) else 1


def compare(folders: Sequence[Path], out: Path, against: str = "epoch") -> list[ComparedRun]:
    """Compare runs in a figure at ``out`` and a table on standard output.

    What cannot be read is named on standard error.

    Returns:
        the runs that were compared.

    Raises:
        UserError: none can be read, or the figure cannot be written.
    """
    runs = []
    for folder in _distinct(folders):
        try:
            runs.append(read_run(folder))
        except UserError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        for place, what in runs[-1].metrics.damaged[:3]:
            print(f"{printable(folder / 'metrics.jsonl')}, line {place}: damaged, {what}; left out", file=sys.stderr)
        if (more := len(runs[-1].metrics.damaged) - 3) > 0:
            print(f"{printable(folder / 'metrics.jsonl')}: and {more} more damaged lines", file=sys.stderr)
    if not runs:
        raise UserError("RUN: none of them can be compared, expected folders that python -m train left")
    names = labels([(r.folder, r.config) for r in runs])

    from train.plots import comparison  # matplotlib takes a second to import

    try:
        with atomic_file.replacing(out) as temporary:
            comparison.draw(temporary, list(zip(names, runs, strict=True)), against)
    except OSError as error:
        raise UserError(f"--out: {printable(out)} cannot be written ({error.strerror})") from error
    print(report(names, runs))
    print(f"\nfigure: {printable(out)}")
    return runs


def report(names: Sequence[str], runs: Sequence[ComparedRun]) -> str:
    """The table, in the order in which the runs were given."""
    rows = []
    for name, each in zip(names, runs, strict=True):
        epochs = each.metrics.lines
        seconds = sum(epoch["seconds"] for epoch in epochs) / len(epochs)
        rows.append(
            (
                name,
                f"{epochs[-1]['epoch']:.0f}",
                f"{each.accuracy:.2%}",
                f"{each.loss:.4f}",
                "–" if each.parameters is None else f"{each.parameters:,.0f}",
                "–" if each.compression is None else f"{each.compression:.2f}x",
                f"{seconds:.1f}",
                each.state,
            )
        )
    header = ("run", "epochs", "accuracy", "loss", "parameters", "compression", "s/epoch", "state")
    return table(header, rows, (False, True, True, True, True, True, True, False))


def _distinct(folders: Sequence[Path]) -> list[Path]:
    """Each folder once, in the order given."""
    return list({os.path.realpath(folder): folder for folder in reversed(folders)}.values())[::-1]
