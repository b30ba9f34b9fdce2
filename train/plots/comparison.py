"""The figure of several runs: learning curves, and accuracy against stored parameters."""

import itertools
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from train.plots.compared_run import ComparedRun
from train.plots.run_figures import STYLE, plain
from train.terminal import printable

# Okabe and Ito's palette, distinct for any colour vision, without its yellow, too faint on paper. Colours, dashes and
# markers repeat after 7, 5 and 8 runs, so the combination repeats after 280.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
# Markers along a curve: enough to recognise it, not so many that they hide it.
MARKS = 12


def draw(path: Path, runs: Sequence[tuple[str, ComparedRun]], against: str) -> None:
    """Draw the comparison into a file of the kind that its suffix says.

    Args:
        runs: label and content of each.
        against: ``"epoch"`` or ``"seconds"``.
    """
    # Text in a PDF stays text; the same runs give the same bytes.
    style = {**STYLE, "pdf.fonttype": 42, "svg.hashsalt": "puppet-jax"}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a letter that the font lacks is drawn as a box
        engine = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
        figure = Figure(figsize=(10.0, 8.0 + 0.11 * len(runs)), layout=engine)
        axes = figure.subplots(2, 2)
        shared = [
            each for name in ("data", "preset", "model", "puppeteer") if (each := _shared(runs, name)) is not None
        ]
        figure.suptitle(plain(", ".join(shared)), fontsize=12)
        handles = _curves(axes.flat[:3], runs, against)
        _parameters(axes[1, 1], runs)
        longest = max(len(name) for name, _ in runs)
        legend = figure.legend(
            handles,
            [plain(name) for name, _ in runs],
            loc="outside lower center",
            ncols=1 if longest > 40 else 2 if longest > 20 else 3,
            fontsize=10,
            handlelength=4,
        )
        for text, (name, _) in zip(legend.get_texts(), runs, strict=True):
            text.set_text(plain(name))
        metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower())
        figure.savefig(path, metadata=metadata)


def _curves(axes, runs: Sequence[tuple[str, ComparedRun]], against: str) -> list:
    """Three learning curves of every run; the lines of one of them, for the legend."""
    evaluated = "/".join(sorted({run.evaluated_on for _, run in runs}))
    panels = (
        ("train_loss", "train loss (nats), mean over the epoch"),
        ("test_loss", f"{evaluated} loss (nats)"),
        ("test_accuracy", f"{evaluated} accuracy"),
    )
    for axis, (quantity, name) in zip(axes, panels, strict=True):
        lines = []
        for index, (_, run) in enumerate(runs):
            epochs = run.metrics.lines
            x = [epoch["epoch"] for epoch in epochs]
            if against == "seconds":
                x = list(itertools.accumulate(epoch["seconds"] for epoch in epochs))
            colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
            lines += axis.plot(
                x,
                [epoch[quantity] for epoch in epochs],
                color=colour,
                linestyle=DASHES[index % len(DASHES)],
                linewidth=1.6,
                marker=marker,
                markersize=5,
                # At different epochs in each run, so that curves that coincide can be told apart.
                markevery=_marked(len(epochs), index),
                markerfacecolor=colour if run.finished else "white",
            )
        axis.set(xlabel="seconds in training steps" if against == "seconds" else "epoch", ylabel=name)
        if against == "epoch":
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if quantity == "test_accuracy":
            axis.yaxis.set_major_formatter(PercentFormatter(1))
        else:
            _loss_axis(axis, [epoch[quantity] for _, run in runs for epoch in run.metrics.lines])
    return lines


def _parameters(axis, runs: Sequence[tuple[str, ComparedRun]]) -> None:
    counted = [(index, run) for index, (_, run) in enumerate(runs) if run.parameters]
    for index, run in counted:
        colour = COLOURS[index % len(COLOURS)]
        axis.plot(
            [run.parameters],
            [run.accuracy],
            linestyle="none",
            marker=MARKERS[index % len(MARKERS)],
            markersize=9,
            color=colour,
            markerfacecolor=colour if run.finished else "white",
            markeredgewidth=1.6,
            clip_on=False,
        )
    unfinished = " (hollow: unfinished)" if not all(run.finished for _, run in runs) else ""
    axis.set(xlabel="stored parameters", ylabel=f"accuracy at the end{unfinished}")
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.margins(0.12)
    counts = [run.parameters for _, run in counted if run.parameters]
    if counts and max(counts) > 10 * min(counts):
        axis.set_xscale("log")
    else:
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.set_xlim(left=0)
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    if not counts:
        axis.text(0.5, 0.5, "no run says how many it stores", ha="center", va="center", transform=axis.transAxes)


def _shared(runs: Sequence[tuple[str, ComparedRun]], field: str) -> str | None:
    """A field's value where all configurations have the same; else ``None``."""
    values = {repr(run.config.get(field)): run.config.get(field) for _, run in runs}
    (value,) = values.values() if len(values) == 1 else (None,)
    if not isinstance(value, str):
        return None
    return printable(Path(value).name if field == "data" and Path(value).is_absolute() else value)[:60]


def _marked(count: int, index: int) -> list[int]:
    """Which epochs of a run's curve carry a marker: about MARKS of them, and the last."""
    step = max(1, math.ceil(count / MARKS))
    return sorted({*range(index % step, count, step), count - 1})


def _loss_axis(axis, values: Sequence[float]) -> None:
    """From 0, or logarithmic where losses differ by more than a factor of 50."""
    positive = [value for value in values if value > 0]
    if positive and max(positive) > 50 * min(positive):
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        axis.set_ylim(bottom=0)
