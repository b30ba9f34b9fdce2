"""The figure of several runs: learning curves, and accuracy against stored parameters."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from train.commands.plot import ComparedRun
from train.plots.style import COLOURS, plain, style

# Colours and markers repeat after 7 and 8 runs, so the combination repeats after 56.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")


def draw(path: Path, runs: Sequence[ComparedRun]) -> None:
    """Draw the comparison into a file of the kind that its suffix says."""
    with style(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a letter that the font lacks is drawn as a box
        figure = Figure((10.0, 8.0 + 0.11 * len(runs)), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
        train_loss, test_loss, accuracy, stored = figure.subplots(2, 2).flat
        for index, run in enumerate(runs):
            look = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
            x = [epoch.epoch for epoch in run.epochs]
            for axis, column in ((train_loss, "train_loss"), (test_loss, "test_loss"), (accuracy, "test_accuracy")):
                y = [getattr(epoch, column) for epoch in run.epochs]
                axis.plot(x, y, markersize=5, markevery=max(1, len(y) // 12), label=plain(run.name), **look)
            if run.parameters:
                stored.plot([run.parameters], [run.accuracy], linestyle="none", markersize=9, clip_on=False, **look)

        evaluated = "/".join(sorted({run.evaluated_on for run in runs}))
        train_loss.set(ylabel="train loss (nats), mean over the epoch", ylim=(0, None))
        test_loss.set(ylabel=f"{evaluated} loss (nats)", ylim=(0, None))
        accuracy.set(ylabel=f"{evaluated} accuracy")
        for axis in (train_loss, test_loss, accuracy):
            axis.set(xlabel="epoch")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        stored.set(xlabel="stored parameters", ylabel=f"{evaluated} accuracy at the end", xlim=(0, None))
        stored.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        stored.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        for axis in (accuracy, stored):
            axis.yaxis.set_major_formatter(PercentFormatter(1))
        columns = 3 - sum(max(len(run.name) for run in runs) > limit for limit in (20, 40))
        handles, labels = accuracy.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=10, handlelength=4)
        # No date in the file, so that the same runs give the same bytes.
        figure.savefig(path, metadata={".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower()))
