"""The figure of the study: accuracy against what is stored in place of kernels."""

from pathlib import Path

from bench import figure

_KINDS = {
    "stored": (figure.BLACK, "s", "static CNN, kernels stored"),
    "continuous": (figure.BLUE, "o", "continuous convolution"),
    "ode": (figure.ORANGE, "^", "neural ODE, as good as we could make it"),
    "printed": (figure.PINK, "v", "neural ODE as printed"),
}


def draw(path: Path, lines: list[dict], note: str) -> None:
    """Draw ``path`` as SVG and PNG from lines of ``bench.accuracy.rows_of``, each with its ``puppeteer``."""
    from matplotlib.ticker import PercentFormatter

    lines = sorted(lines, key=lambda line: line["generator"])
    widths = sorted({line["width"] for line in lines})
    filled = dict(zip(widths, ("full", "none", "left", "right", "top", "bottom"), strict=False))
    with figure.drawn(path, figsize=(7.0, 4.6)) as (_, ((axes,),)):
        # What a narrower CNN would do with as few parameters: a line of its own over widths.
        static = [line for line in lines if line["puppeteer"] == "stored"]
        x, y = ([line[name] for line in static] for name in ("generator", "accuracy"))
        axes.plot(x, y, linestyle=":", linewidth=1, color=figure.BLACK)
        for kind, (colour, marker, label) in _KINDS.items():
            for width in widths:
                chosen = [line for line in lines if (line["puppeteer"], line["width"]) == (kind, width)]
                if not chosen:
                    continue
                x, y = ([line[name] for line in chosen] for name in ("generator", "accuracy"))
                spread = [[line["accuracy"] - line["least"] for line in chosen]]
                spread.append([line["greatest"] - line["accuracy"] for line in chosen])
                more = f", {width} channels" if len(widths) > 1 else ""
                style = {"color": colour, "marker": marker, "fillstyle": filled[width], "markersize": 8}
                axes.errorbar(x, y, yerr=spread, linestyle="-", linewidth=1, capsize=3, label=label + more, **style)
        axes.set(xscale="log", xlabel="stored kernel parameters", ylabel="test accuracy")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.legend(frameon=False, fontsize=9)
        axes.set_title(note, fontsize=9)
