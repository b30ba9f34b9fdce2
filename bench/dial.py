"""The figure of exits: accuracy against the multiplications of an image, on average."""

from pathlib import Path


def draw(path: Path, lines: list[dict], note: str) -> None:
    """Draw ``path`` as SVG and PNG from the rows of a study: the net with exits, by a fixed one and by confidence, and
    nets of one depth each, whose row's name ends with it."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    from train.plots.style import style

    with_exits = next(line for line in lines if line["by_exit"])
    work = {each["depth"]: each["multiplications"] for each in with_exits["by_exit"]}
    alone = sorted((int(line["row"].rsplit("-", 1)[1]), line["accuracy"]) for line in lines if line is not with_exits)
    kinds = [
        ("#000000", "s", "a net for each depth alone", [(work[depth], accuracy) for depth, accuracy in alone]),
        ("#0072B2", "o", "one net, the same exit for all images", _points(with_exits["by_exit"])),
        ("#D55E00", "^", "the same net, by confidence", _points(with_exits["by_confidence"])),
    ]
    with style():
        figure = Figure()
        axes = figure.subplots()
        for colour, marker, label, points in kinds:
            x, y = zip(*points, strict=True)
            axes.plot([each / 1e6 for each in x], y, color=colour, marker=marker, linewidth=1, label=label)
        axes.set(xlabel="million multiplications an image", ylabel="accuracy")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.legend(fontsize=9, loc="lower right")
        axes.set_title(note, fontsize=9)
        for end in (".svg", ".png"):
            figure.savefig(path.with_suffix(end), metadata={"Date": None} if end == ".svg" else None)


def _points(lines: list[dict]) -> list[tuple[float, float]]:
    return [(line["multiplications"], line["accuracy"]) for line in lines]
