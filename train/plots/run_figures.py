"""The figures of a run, as PNG files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure  # not pyplot, which would choose a window system for the whole process
from matplotlib.ticker import MaxNLocator, PercentFormatter

from train.plots.style import COLOURS, plain, style

TRAIN, TEST = COLOURS[:2]  # markers and hatches repeat the distinction


def draw(
    folder: Path,
    *,
    title: str,
    evaluated: str,
    history: list[dict[str, Any]],
    train: dict[str, np.ndarray],
    test: dict[str, np.ndarray],
    max_depth: int,
    confusion: np.ndarray,
    class_names: Sequence[str],
    kernels: dict[float, list[np.ndarray]],
) -> None:
    """Draw all five figures into ``folder``, of the lines of ``metrics.jsonl`` and what :mod:`train.steps.evaluation`
    finds; the reported split is called ``evaluated``, ``"test"`` or ``"validation"``."""
    with style():
        figures = {
            "learning_curves.png": ("Learning curves", _learning_curves(evaluated, history)),
            "complexity.png": ("Complexity of the images, without augmentation", _complexity(evaluated, train, test)),
            "depth.png": ("Depth of the puppet", _depth(evaluated, train, test, max_depth)),
            "confusion.png": (f"What the {evaluated} images are taken for", _confusion(confusion, class_names)),
            "kernels.png": ("Kernels by layer and complexity", _kernels(kernels)),
        }
        for name, (what, figure) in figures.items():
            # The legend, with the title, lies above the axes, where it covers no data. Two axes have the same curves.
            handles, labels = figure.axes[0].get_legend_handles_labels()
            heading = {"title": f"{what}\n{plain(title)}", "title_fontsize": 11}
            legend = figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=10, **heading)
            legend.get_title().set_multialignment("center")
            figure.savefig(folder / name)


def _learning_curves(evaluated: str, history: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(10, 4.6))
    losses, accuracies = figure.subplots(1, 2)
    epochs = [line["epoch"] for line in history]
    marker = 4 if len(epochs) <= 60 else 0
    # In full, because the training curve is often the worse of the two, which would surprise.
    names = {"train": "train (mean over the epoch, while learning)", "test": f"{evaluated} (after the epoch)"}
    for axis, quantity in ((losses, "loss"), (accuracies, "accuracy")):
        for split, line, colour in (("train", "o-", TRAIN), ("test", "s--", TEST)):
            values = [record[f"{split}_{quantity}"] for record in history]
            axis.plot(epochs, values, line, color=colour, label=names[split], ms=marker)
        axis.set(xlabel="epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    losses.set(ylabel="loss (nats)", ylim=(0, None))
    last = history[-1]["test_accuracy"]
    accuracies.annotate(f"{last:.1%}", (epochs[-1], last), (0, 6), textcoords="offset points", ha="right", color=TEST)
    accuracies.set(ylabel="accuracy", ylim=(None, 1))
    accuracies.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def _complexity(evaluated: str, train: dict, test: dict) -> Figure:
    figure = Figure()
    axis = figure.subplots()
    both = np.concatenate([train["complexity"], test["complexity"]])
    bins = np.linspace(both.min(), both.max() + 1e-6, 41).tolist()
    looks: tuple[dict[str, Any], ...] = ({"histtype": "stepfilled", "alpha": 0.45}, {"histtype": "step"})
    for values, name, colour, look in zip((train, test), ("train", evaluated), (TRAIN, TEST), looks, strict=True):
        h = values["complexity"]
        label = f"{name}: n = {len(h):,}, mean {h.mean():.2f} bits"
        axis.hist(h, bins, weights=np.full(len(h), 1 / len(h)), label=label, color=colour, linewidth=1.8, **look)
    axis.set(xlabel="complexity H (bits)", ylabel="share of images")
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def _depth(evaluated: str, train: dict, test: dict, max_depth: int) -> Figure:
    figure = Figure()
    axis = figure.subplots()
    depths = np.arange(1, max_depth + 1)
    for values, name, colour, hatch, side in ((train, "train", TRAIN, None, -1), (test, evaluated, TEST, "//", 1)):
        share = np.array([np.mean(values["depth"] == d) for d in depths])
        label = f"{name}: mean {values['depth'].mean():.2f}, {values['clipped'].mean():.1%} cut off"
        bars = axis.bar(depths + side * 0.2, share, 0.4, label=label, color=colour, hatch=hatch, edgecolor="white")
        texts = ["" if s == 0 else "<0.1" if s < 0.0005 else f"{100 * s:.1f}" for s in share]
        axis.bar_label(bars, texts, fontsize=8, padding=2)
    axis.set(xlabel=f"depth D, cut off at D_max = {max_depth}", ylabel="share of images (%)", xticks=depths)
    axis.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    axis.grid(visible=False, axis="x")
    axis.margins(y=0.08)
    return figure


def _confusion(counts: np.ndarray, names: Sequence[str]) -> Figure:
    figure = Figure(figsize=(8, 7.4))
    axis = figure.subplots()
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, format=PercentFormatter(1), label="share of the class")
    axis.set(xlabel="taken for", ylabel="class")
    axis.grid(visible=False)
    if len(names) <= 20:
        labels = [plain(name)[:20] for name in names]
        axis.set_xticks(range(len(names)), labels, rotation=45, ha="right")
        axis.set_yticks(range(len(names)), labels)
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if share[row, column] > 0.5 else "black"
                axis.text(column, row, f"{count:,}", ha="center", va="center", fontsize=8, color=colour)
    return figure


def _kernels(kernels: dict[float, list[np.ndarray]]) -> Figure:
    """Of up to twelve layers the kernels from two channels to two: orange is above 0, purple below."""
    layers = min(12, *map(len, kernels.values()))
    figure = Figure(figsize=(1.2 * len(kernels) + 1.4, 1.2 * layers + 1.6))
    axes = figure.subplots(layers, len(kernels), squeeze=False)
    for column, (h, of_layers) in enumerate(kernels.items()):
        for row, axis in enumerate(axes[:, column]):
            some = of_layers[row][:2, :2]
            some = some.reshape(*some.shape[:2], -1, some.shape[-1])  # one axis, or three
            tiles = np.pad(some, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
            most = abs(some).max() or 1
            axis.imshow(np.hstack([np.vstack(list(each)) for each in tiles]), cmap="PuOr_r", vmin=-most, vmax=most)
            axis.set(xticks=[], yticks=[], ylabel=f"layer {row + 1}" if column == 0 else "")
            axis.grid(visible=False)
            axis.spines[:].set_visible(False)
            axis.set_title(f"{h:.2f} bits" if row == 0 else "", fontsize=9)
    return figure
