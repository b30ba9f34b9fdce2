"""A prediction as a line of JSON, or of a table."""

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from train.predict.predictor import Outputs
from train.terminal import line, printable, width


class Prediction(NamedTuple):
    """Of one image.

    Attributes:
        classes: numbers of the most probable classes, the best first.
        probabilities: of these classes.
        complexity: bits.
        depth: layers.
    """

    classes: list[int]
    probabilities: list[float]
    complexity: float
    depth: int


def predictions(outputs: Outputs, top: int) -> Iterator[Prediction]:
    """The ``top`` most probable classes of each image; of equally probable ones the first."""
    best = np.argsort(-outputs.probabilities, axis=-1, kind="stable")[:, :top]
    columns = best, np.take_along_axis(outputs.probabilities, best, -1), outputs.complexity, outputs.depth
    return (Prediction(*row) for row in zip(*(np.asarray(column).tolist() for column in columns), strict=True))


class JsonLines:
    """Lines of JSON, each with its line feed; ``top`` has the most probable classes, its first is ``class``."""

    def __init__(self, class_names: Sequence[str]):
        self._names = class_names

    def __call__(self, path: str, prediction: Prediction) -> str:
        classes, probabilities, complexity, depth = prediction
        top = [{"class": self._names[c], "probability": p} for c, p in zip(classes, probabilities, strict=True)]
        return self._line({"image": path, **top[0], "complexity_bits": complexity, "depth": depth, "top": top})

    def error(self, path: str, reason: str) -> str:
        """The line of an image that could not be read."""
        return self._line({"image": path, "error": reason})

    def _line(self, record: dict) -> str:
        return json.dumps(record, allow_nan=False) + "\n"


class Table:
    """Lines of a table, under a header before the first.

    Args:
        class_names: of all classes; the columns are as wide as the longest.
        top: how many classes each line names.
        widest: columns that the longest path takes.
    """

    def __init__(self, class_names: Sequence[str], top: int, widest: int):
        self._names = [printable(name) for name in class_names]
        classes = max([width(name) for name in self._names] + [len("class")])
        header, self.widths, self.right = ["image"], [max(widest, len("image"))], [False]
        for k in range(top):
            header += ["class" if k == 0 else f"class {k + 1}", "probability"]
            self.widths += [max(classes, width(header[-2])), len("probability")]
            self.right += [False, True]
        header += ["complexity", "depth"]
        self.widths += [len("complexity"), len("depth")]
        self.right += [True, True]
        self.header = line(header, self.widths, self.right) + "\n"

    def __call__(self, path: str, prediction: Prediction) -> str:
        cells = [printable(path)]
        for each, probability in zip(prediction.classes, prediction.probabilities, strict=True):
            cells += [self._names[each], f"{probability:.1%}"]
        cells += [f"{prediction.complexity:.2f} bits", str(prediction.depth)]
        header, self.header = self.header, ""
        return f"{header}{line(cells, self.widths, self.right)}\n"
