"""The figures of a run, as PNG files."""

import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure  # not pyplot, which would choose a window system for the whole process
from matplotlib.ticker import MaxNLocator, PercentFormatter

# Two colours of Okabe and Ito's palette, distinct for any colour vision; markers and hatches repeat the distinction.
TRAIN, TEST = "#0072B2", "#D55E00"
BEHIND_TEXT = {"facecolor": "white", "edgecolor": "none", "pad": 1}
STYLE: dict[Any, Any] = {
    "figure.figsize": (7.0, 4.6),
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "legend.frameon": False,
}


def draw(
    folder: Path,
    *,
    title: str,
    evaluated: str,
    history: list[dict[str, Any]],
    train: dict[str, np.ndarray],
    test: dict[str, np.ndarray],
    accuracy_by_depth: list[dict[str, Any]],
    max_depth: int,
) -> None:
    """Draw all four figures into ``folder``.

    Args:
        title: what was trained, printed above each figure.
        evaluated: what the reported split is called, ``"test"`` or ``"validation"``.
        history: the lines of ``metrics.jsonl``.
        train, test: of :func:`train.steps.evaluation.measure`.
        accuracy_by_depth: of :func:`train.steps.evaluation.accuracy_by`, on the reported split.
        max_depth: D_max of the puppet.
    """
    with matplotlib.rc_context(STYLE):
        _learning_curves(folder / "learning_curves.png", title, evaluated, history)
        _complexity(folder / "complexity.png", title, evaluated, train, test)
        _depth(folder / "depth.png", title, evaluated, train, test, max_depth)
        _accuracy_by_depth(folder / "accuracy_by_depth.png", title, evaluated, accuracy_by_depth)


def _learning_curves(path: Path, title: str, evaluated: str, history: list[dict[str, Any]]) -> None:
    figure = Figure(figsize=(10, 4.6))
    axes = figure.subplots(1, 2)
    epochs = [line["epoch"] for line in history]
    marker = 4 if len(epochs) <= 60 else 0
    # In full, because the training curve is often the worse of the two, which would surprise.
    names = {"train": "train (mean over the epoch, while learning)", "test": f"{evaluated} (after the epoch)"}
    for axis, quantity in zip(axes, ("loss", "accuracy"), strict=True):
        for split, line, colour in (("train", "o-", TRAIN), ("test", "s--", TEST)):
            values = [record[f"{split}_{quantity}"] for record in history]
            axis.plot(epochs, values, line, color=colour, label=names[split], ms=marker)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    last = history[-1]["test_accuracy"]
    axes[1].annotate(f"{last:.1%}", (epochs[-1], last), (0, 6), textcoords="offset points", ha="right", color=TEST)
    axes[0].set(ylabel="cross-entropy (nats)")
    axes[0].set_ylim(bottom=0)
    axes[1].set(ylabel="accuracy")
    axes[1].set_ylim(top=1)
    axes[1].yaxis.set_major_formatter(PercentFormatter(1))
    _finish(figure, path, "Learning curves", title)


def _complexity(path: Path, title: str, evaluated: str, train: dict, test: dict) -> None:
    figure = Figure()
    axis = figure.subplots()
    both = np.concatenate([train["complexity"], test["complexity"]])
    bins = np.linspace(both.min(), both.max() + 1e-6, 41)
    for values, label, colour, filled in ((train, "train", TRAIN, True), (test, evaluated, TEST, False)):
        h = values["complexity"]
        axis.hist(
            h,
            bins.tolist(),
            weights=np.full(len(h), 1 / len(h)),
            label=f"{label}: n = {len(h):,}, mean {h.mean():.2f} bits",
            color=colour,
            histtype="stepfilled" if filled else "step",
            alpha=0.45 if filled else 1.0,
            linewidth=1.8,
        )
    axis.set(xlabel="complexity H (bits)", ylabel="share of images")
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    _finish(figure, path, "Complexity of the images, without augmentation", title)


def _depth(path: Path, title: str, evaluated: str, train: dict, test: dict, max_depth: int) -> None:
    figure = Figure()
    axis = figure.subplots()
    depths = np.arange(1, max_depth + 1)
    for values, label, colour, hatch, side in ((train, "train", TRAIN, None, -1), (test, evaluated, TEST, "//", 1)):
        share = np.array([np.mean(values["depth"] == d) for d in depths])
        clipped = values["clipped"].mean()
        bars = axis.bar(
            depths + side * 0.2,
            share,
            0.4,
            label=f"{label}: mean {values['depth'].mean():.2f}, {clipped:.1%} cut off",
            color=colour,
            hatch=hatch,
            edgecolor="white",
        )
        axis.bar_label(bars, [_percent(s) for s in share], fontsize=8, padding=2)
    axis.set(xlabel=f"depth D, cut off at D_max = {max_depth}", ylabel="share of images (%)")
    axis.set_xticks(depths)
    axis.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    axis.grid(visible=False, axis="x")
    axis.margins(y=0.08)
    _finish(figure, path, "Depth of the puppet", title)


def _accuracy_by_depth(path: Path, title: str, evaluated: str, rows: list[dict[str, Any]]) -> None:
    figure = Figure()
    axis = figure.subplots()
    depth = [row["depth"] for row in rows]
    accuracy = np.array([row["accuracy"] for row in rows])
    low, high = np.array([_wilson(row["accuracy"], row["images"]) for row in rows]).T
    errors = [np.maximum(accuracy - low, 0), np.maximum(high - accuracy, 0)]
    axis.bar(depth, accuracy, 0.6, color=TRAIN, alpha=0.75)
    axis.errorbar(depth, accuracy, errors, fmt="none", ecolor="black", capsize=4, label="95% interval (Wilson)")
    overall = np.average(accuracy, weights=[row["images"] for row in rows])
    axis.axhline(overall, color=TEST, linestyle="--", linewidth=1.2, label=f"all images: {overall:.1%}")
    for row, top in zip(rows, high, strict=True):
        text = f"{row['accuracy']:.1%}\nn = {row['images']:,}"
        axis.text(row["depth"], top + 0.02, text, ha="center", va="bottom", fontsize=9, bbox=BEHIND_TEXT)
    axis.set(xlabel="depth D", ylabel=f"{evaluated} accuracy")
    axis.set_xticks(depth)
    axis.set_xlim(min(depth) - 0.8, max(depth) + 0.8)
    axis.set_ylim(0, 1.18)
    axis.set_yticks(np.linspace(0, 1, 6))
    axis.spines.left.set_bounds(0, 1)  # the room above is for the labels
    axis.grid(visible=False, axis="x")
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    _finish(figure, path, "Accuracy by depth", title)


def plain(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign, as in a folder's name, starts no formula."""
    return text.replace("$", r"\$")


def _percent(share: float) -> str:
    return "" if share == 0 else "<0.1" if share < 0.0005 else f"{100 * share:.1f}"


def _wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share seen in n trials: inside [0, 1] and honest for few images."""
    z = 1.96
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return centre - half, centre + half


def _finish(figure, path: Path, what: str, title: str) -> None:
    # The legend, with the title, lies above the axes, where it covers no data. Where there are two axes, both show the
    # same curves.
    handles, labels = figure.axes[0].get_legend_handles_labels()
    heading = f"{what}\n{plain(title)}"
    legend = figure.legend(
        handles, labels, title=heading, title_fontsize=11, loc="outside upper center", ncols=2, fontsize=10
    )
    legend.get_title().set_multialignment("center")
    figure.savefig(path)
