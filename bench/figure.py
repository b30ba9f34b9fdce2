"""Figures of results: one look, colours that are told apart with any colour vision, files that do not change alone."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Okabe and Ito's.
BLACK, ORANGE, BLUE, GREEN, GREY = "#000000", "#D55E00", "#0072B2", "#009E73", "#777777"


@contextlib.contextmanager
def drawn(path: Path, rows: int = 1, columns: int = 1, **options) -> Iterator[tuple[Any, Any]]:
    """A figure and its array of axes to draw on, written as SVG and PNG afterwards."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    settings = {"font.size": 10, "svg.hashsalt": path.name, "svg.fonttype": "none", "axes.grid": True}
    settings |= {"grid.color": "0.9", "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(settings):
        figure, axes = plt.subplots(rows, columns, layout="constrained", squeeze=False, **options)
        yield figure, axes
        for end in (".svg", ".png"):
            figure.savefig(path.with_suffix(end), dpi=150, metadata={"Date": None} if end == ".svg" else None)
        plt.close(figure)
