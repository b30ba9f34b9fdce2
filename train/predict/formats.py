"""What is told of an image: a record, and a line of a table."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from train.predict.predictor import Outputs
from train.terminal import line, printable, width


def records(outputs: Outputs, class_names: Sequence[str], top: int) -> Iterator[dict[str, Any]]:
    """A record for each image: class, probability, complexity in bits, depth, and the ``top`` most probable classes (of
    equally probable ones the first)."""
    best = np.argsort(-outputs.probabilities, axis=-1, kind="stable")[:, :top]
    columns = best, np.take_along_axis(outputs.probabilities, best, -1), outputs.complexity, outputs.depth
    for classes, probabilities, complexity, depth in zip(*(column.tolist() for column in columns), strict=True):
        each = [{"class": class_names[c], "probability": p} for c, p in zip(classes, probabilities, strict=True)]
        yield {**each[0], "complexity_bits": complexity, "depth": depth, "top": each}


class Table:
    """Lines of a table, under a header before the first.

    Args:
        class_names: of all classes; the columns are as wide as the longest.
        top: how many classes each line names.
        widest: columns that the longest path takes.
    """

    def __init__(self, class_names: Sequence[str], top: int, widest: int):
        names = ["class", *(f"class {k}" for k in range(2, top + 1))]
        longest = max(width(printable(name)) for name in class_names)
        header = ["image", *(cell for name in names for cell in (name, "probability")), "complexity", "depth"]
        widths = [widest, *[longest, 0] * top, 0, 0]
        self._widths = [max(least, width(cell)) for least, cell in zip(widths, header, strict=True)]
        self._right = [False, *[False, True] * top, True, True]
        self._header = self._line(header)

    def __call__(self, path: str, record: dict[str, Any]) -> str:
        """The line of a record, with its line feed."""
        classes = [cell for each in record["top"] for cell in (printable(each["class"]), f"{each['probability']:.1%}")]
        header, self._header = self._header, ""
        cells = [printable(path), *classes, f"{record['complexity_bits']:.2f} bits", str(record["depth"])]
        return header + self._line(cells)

    def _line(self, cells: Sequence[str]) -> str:
        return line(cells, self._widths, self._right) + "\n"
