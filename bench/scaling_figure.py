"""The figure of the scaling: time against each quantity, both axes logarithmic."""

import math
from pathlib import Path

from bench import figure

# Colour, marker and its filling, line: each contender is told by more than its colour.
_KINDS = {
    "compile_predict": (figure.GREEN, "D", "none", "--", "prediction, compile_predict"),
    "static_jax": (figure.BLACK, "s", "none", "--", "prediction, static twin"),
    "train_ode": (figure.ORANGE, "^", "full", "-", "training step, ODE"),
    "train_continuous": (figure.BLUE, "o", "full", "-", "training step, continuous"),
    "train_static_jax": (figure.BLACK, "s", "full", "-", "training step, static twin"),
}
_COLUMNS = 3


def draw(path: Path, result: dict) -> None:
    """Draw ``path`` as SVG and PNG from a result of ``bench.scaling``; seconds are drawn as milliseconds."""
    found = result["quantities"]
    rows = math.ceil(len(found) / _COLUMNS)
    with figure.drawn(path, rows, _COLUMNS, figsize=(10.5, 3.6 * rows)) as (drawing, grid):
        lines = {}
        for axes, (quantity, one) in zip(grid.flat, found.items(), strict=False):
            lines |= _times(axes, quantity, one)
        for axes in grid.flat[len(found) :]:
            axes.set_axis_off()
        order = [name for name in _KINDS if name in lines]
        # Outside all axes, where there is no data to cover.
        handles, labels = [lines[name] for name in order], [_KINDS[name][-1] for name in order]
        drawing.legend(handles, labels, loc="outside lower center", ncols=_COLUMNS, frameon=False)


def _style(name: str) -> dict:
    colour, marker, fill, dashes, _ = _KINDS[name]
    return {"color": colour, "marker": marker, "fillstyle": fill, "linestyle": dashes, "linewidth": 1, "markersize": 7}


def _times(axes, quantity: str, one: dict) -> dict:
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

    lines = {}
    for name in [name for name in _KINDS if name in one["contenders"]]:
        costs = [1e3 * seconds for seconds in one["contenders"][name]["median_s"]]
        (lines[name],) = axes.plot(one["values"], costs, **_style(name))
    axes.set(xscale="log", yscale="log", xlabel=one["axis"], ylabel="time, ms")
    axes.set_xticks(one["values"], labels=map(str, one["values"]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title(quantity, fontsize=10)
    return lines
