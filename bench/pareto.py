"""The figure of the study: accuracy against what is stored in place of kernels."""

from pathlib import Path

# Okabe and Ito's colours, told apart with any colour vision; markers say the same again.
_KINDS = {
    "stored": ("#000000", "s", "static CNN, kernels stored"),
    "continuous": ("#0072B2", "o", "continuous convolution"),
    "ode": ("#D55E00", "^", "neural ODE, as good as we could make it"),
    "printed": ("#CC79A7", "v", "neural ODE as printed"),
}


def draw(path: Path, lines: list[dict], note: str) -> None:
    """Draw ``path`` as SVG and PNG from lines of ``bench.accuracy.rows_of``, each with its ``puppeteer``."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import PercentFormatter

    widths = sorted({line["width"] for line in lines})
    filled = dict(zip(widths, ("full", "none", "left", "right", "top", "bottom"), strict=False))
    settings = {"font.size": 11, "svg.hashsalt": "pareto", "svg.fonttype": "none"}
    with plt.rc_context(settings):
        figure, axes = plt.subplots(figsize=(7.0, 4.6), layout="constrained")
        for kind, (colour, marker, label) in _KINDS.items():
            if kind == "stored":  # what a narrower CNN would do with as few parameters: a line of its own over widths
                static = sorted(
                    (line for line in lines if line["puppeteer"] == kind), key=lambda line: line["generator"]
                )
                x, y = ([line[name] for line in static] for name in ("generator", "accuracy"))
                axes.plot(x, y, linestyle=":", linewidth=1, color=colour)
            for width in widths:
                chosen = sorted(
                    (line for line in lines if line["puppeteer"] == kind and line["width"] == width),
                    key=lambda line: line["generator"],
                )
                if not chosen:
                    continue
                x, y = ([line[name] for line in chosen] for name in ("generator", "accuracy"))
                spread = [[line["accuracy"] - line["least"] for line in chosen]]
                spread.append([line["greatest"] - line["accuracy"] for line in chosen])
                more = f", {width} channels" if len(widths) > 1 else ""
                style = {"color": colour, "marker": marker, "fillstyle": filled[width], "markersize": 8}
                axes.errorbar(x, y, yerr=spread, linestyle="-", linewidth=1, capsize=3, label=label + more, **style)
        axes.set_xscale("log")
        axes.set_xlabel("stored kernel parameters")
        axes.set_ylabel("test accuracy")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
        axes.set_title(note, fontsize=9)
        for end in (".svg", ".png"):
            metadata = {"Date": None} if end == ".svg" else None
            figure.savefig(path.with_suffix(end), dpi=150, metadata=metadata)
        plt.close(figure)
