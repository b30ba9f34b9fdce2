"""The figure of the scaling: time against each quantity, both axes logarithmic, with the fitted exponents."""

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
    rows = math.ceil((len(found) + 1) / _COLUMNS)
    with figure.drawn(path, rows, _COLUMNS, figsize=(10.5, 3.6 * rows)) as (drawing, grid):
        lines = {}
        for axes, (quantity, one) in zip(grid.flat, found.items(), strict=False):
            lines |= _times(axes, quantity, one)
        _exponents(grid.flat[len(found)], found)
        for axes in grid.flat[len(found) + 1 :]:
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


def _exponents(axes, found: dict) -> None:
    """Fitted exponents with 95 % over rounds, side by side; a grey bar where the arithmetic alone would be."""
    for place, one in enumerate(found.values()):
        axes.plot([place - 0.4, place + 0.4], [one["arithmetic"]] * 2, color="0.7", linewidth=3, zorder=1)
        names = [name for name in _KINDS if name in one["contenders"]]
        for index, name in enumerate(names):
            fit = one["contenders"][name]
            x = place + 0.14 * (index - (len(names) - 1) / 2)
            # A bootstrap interval need not hold the estimate.
            spread = [[max(fit["exponent"] - fit["low"], 0.0)], [max(fit["high"] - fit["exponent"], 0.0)]]
            style = {**_style(name), "linestyle": "none", "markersize": 5, "capsize": 2}
            axes.errorbar(x, fit["exponent"], yerr=spread, **style)
    axes.set_xticks(range(len(found)), labels=[name.replace(" ", "\n") for name in found])
    axes.set_ylabel("fitted exponent")
    axes.set_title("exponents (grey: of the arithmetic alone)", fontsize=10)
