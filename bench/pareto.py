"""The figure of the study: accuracy against the bytes that are stored."""

from pathlib import Path

# Without the ODE as printed, which lies far below everything else. Okabe and Ito's colours.
_KINDS = {
    "continuous": ("#0072B2", "o", "continuous convolution"),
    "ode": ("#D55E00", "^", "neural ODE, as good as we could make it"),
    "stored": ("#000000", "s", "static CNN"),
    "bench.peers.generators:Separable": ("#009E73", "D", "depthwise-separable static CNN"),
    "bench.peers.generators:Synecdoche": ("#777777", "P", "synecdoche's generators"),
}
_TICKS = (5, 10, 20, 50, 100)
_FILLED = {"8": "full", "4": "none"}


def draw(path: Path, lines: list[dict], note: str) -> None:
    """Draw ``path`` as SVG and PNG: a line over the sizes of a kind, one for each number of bits."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, PercentFormatter

    from train.plots.style import style

    with style():
        figure = Figure()
        axes = figure.subplots()
        for kind, (colour, marker, label) in _KINDS.items():
            for bits, filled in _FILLED.items():
                chosen = [line for line in lines if line["puppeteer"] == kind and bits in line["bits"]]
                chosen.sort(key=lambda line: line["bits"][bits]["bytes"])
                x, y = ([line["bits"][bits][key] for line in chosen] for key in ("bytes", "accuracy"))
                if not chosen:
                    continue
                line = "none" if "Synecdoche" in kind else "-" if filled == "full" else ":"
                look = {"color": colour, "marker": marker, "fillstyle": filled, "linestyle": line, "linewidth": 1}
                axes.plot([each / 1000 for each in x], y, markersize=7, label=label if bits == "8" else None, **look)
        axes.set(xscale="log", xlabel="stored, kB", ylabel="accuracy")
        axes.set_xticks(_TICKS, labels=map(str, _TICKS))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.legend(fontsize=9, loc="lower right", title="filled: 8 bits, open: 4 bits")
        axes.set_title(note, fontsize=9)
        for end in (".svg", ".png"):
            figure.savefig(path.with_suffix(end), metadata={"Date": None} if end == ".svg" else None)
