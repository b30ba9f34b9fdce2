"""``python -m train plot RUN…``: several runs compared, in one figure and one table."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from train.errors import UserError
from train.records import Metrics, number, open_folder, printable, read_json, read_metrics
from train.table import table

SUFFIXES = (".png", ".svg", ".pdf")
# What a configuration says of where and how a run is made, and not of what it trains.
NOT_TRAINED = {"out", "overwrite", "data_dir", "resume", "keep", "checkpoint_steps", "devices"}
NOT_TRAINED |= {"distributed", "coordinator", "process_id", "process_count"}
LONGEST_LABEL = 60


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


@dataclass(frozen=True)
class Run:
    """What is compared of a run.

    Attributes:
        metrics: at least one epoch.
        evaluated_on: what its reported images are called.
        accuracy, loss: of the reported images, at the end or, in an unfinished run, as far as it got.
        parameters: how many are stored; ``None`` if no file says.
        compression: against the static twin; ``None`` if no file says.
        finished: whether it has a summary.
        state: in words.
    """

    folder: Path
    config: dict[str, Any]
    metrics: Metrics
    evaluated_on: str
    accuracy: float
    loss: float
    parameters: float | None
    compression: float | None
    finished: bool
    state: str


def run(options: Plot) -> int:
    """Read, draw, print. 0, or 1 if a run could not be read."""
    if options.out.suffix.lower() not in SUFFIXES:
        raise UserError(f"--out: got {printable(options.out)}, expected a name that ends in {', '.join(SUFFIXES)}")
    if not options.runs:
        raise UserError("RUN: got none, expected folders that python -m train left")
    runs = compare(options.runs, options.out, options.against)
    return 0 if len(runs) == len(_distinct(options.runs)) else 1


def compare(folders: Sequence[Path], out: Path, against: str = "epoch") -> list[Run]:
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

    from train import comparison  # matplotlib takes a second to import

    temporary = out.with_name(f".{out.stem}.{os.getpid()}{out.suffix}")
    try:
        comparison.draw(temporary, list(zip(names, runs, strict=True)), against)
        os.replace(temporary, out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"--out: {printable(out)} cannot be written ({error.strerror})") from error
    print(report(names, runs))
    print(f"\nfigure: {printable(out)}")
    return runs


def read_run(folder: Path) -> Run:
    """What is compared of the run in a folder.

    Raises:
        UserError: it is not a run's folder, or not one epoch of it can be read.
    """
    metrics = read_metrics(open_folder(folder) / "metrics.jsonl")
    if not metrics.lines:
        raise UserError(f"{printable(folder)}: no epoch in its metrics.jsonl that can be read")
    config, summary, notes = {}, {}, []
    for name in ("config.json", "summary.json"):
        try:
            content = read_json(folder / name)
        except UserError:
            if (folder / name).exists():
                notes.append(f"{name} damaged")
            continue
        if name == "summary.json":
            summary = content
        elif isinstance(content.get("config"), dict):
            config = content["config"]
    last = metrics.lines[-1]
    finished = number(summary, "test_accuracy") is not None
    if not finished:
        planned = number(config, "epochs")
        of = f" of {planned:.0f}" if planned is not None and planned >= last["epoch"] else ""
        notes.insert(0, f"unfinished, epoch {last['epoch']:.0f}{of}")
    if metrics.damaged:
        notes.append(f"{len(metrics.damaged)} damaged lines")
    parameters = number(summary, "parameters", "total")
    evaluated_on = summary.get("evaluated_on", config.get("evaluate_on"))
    accuracy, loss = number(summary, "test_accuracy"), number(summary, "test_loss")
    return Run(
        folder=folder,
        config=config,
        metrics=metrics,
        evaluated_on=evaluated_on if evaluated_on in ("test", "validation") else "test",
        accuracy=last["test_accuracy"] if accuracy is None else accuracy,
        loss=last["test_loss"] if loss is None else loss,
        parameters=_stored(folder) if parameters is None else parameters,
        compression=number(summary, "compression"),
        finished=finished,
        state="; ".join(notes) or "finished",
    )


def labels(runs: Sequence[tuple[Path, dict[str, Any]]]) -> list[str]:
    """A name for each run: what differs between the configurations, and the folder where that does not tell.

    Args:
        runs: folder and configuration of each.
    """
    # A field that a run lacks is of another version: what it had in its place is not known.
    known = [config for _, config in runs if config]
    fields = [name for name in (known or [{}])[0] if name not in NOT_TRAINED and all(name in each for each in known)]
    differing = [name for name in fields if len({repr(config[name]) for config in known}) > 1]
    texts = [", ".join(_setting(name, config[name]) for name in differing if name in config) for _, config in runs]
    folders = [folder.name or str(folder.resolve()) for folder, _ in runs]
    if len(set(folders)) < len(folders):
        folders = [str(folder) for folder, _ in runs]
    result = []
    for text, folder in zip(texts, folders, strict=True):
        if not text or len(text) > LONGEST_LABEL:
            text = folder
        elif texts.count(text) > 1:
            text = f"{text} ({folder})"
        result.append(printable(text))
    return result


def report(names: Sequence[str], runs: Sequence[Run]) -> str:
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


def _setting(name: str, value: Any) -> str:
    # What everybody knows a run by needs no name.
    return str(value) if name in ("data", "preset", "puppeteer") else f"{name.replace('_', ' ')} {value}"


def _distinct(folders: Sequence[Path]) -> list[Path]:
    """Each folder once, in the order given."""
    return list({os.path.realpath(folder): folder for folder in reversed(folders)}.values())[::-1]


def _stored(folder: Path) -> int | None:
    from train.trained import stored  # imports jax, so only where no summary says it

    return stored(folder)
