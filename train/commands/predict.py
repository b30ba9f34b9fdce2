"""``python -m train predict RUN IMAGE…``: class, probability, complexity and depth of images in files."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from train.config import shown
from train.data.walk import walk_images
from train.errors import UserError
from train.runs.source import OfPredictor
from train.terminal import line, printable, width

if TYPE_CHECKING:
    import puppet_jax as pj
    from train.runs.model_file import Trained


@dataclass(frozen=True)
class Predict(OfPredictor):
    """Say what a trained model sees in images: class, probability, complexity in bits and depth in layers.

    Images are converted to grey or colour as those that the model was trained on, scaled to cover their size, and cut
    to it in the middle. Those that cannot be read are named on standard error and the rest are predicted; the exit code
    then is 1.
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, shown("IMAGE...")]
    """Image files, or folders: all images in them and in the folders below."""
    top: Annotated[int, tyro.conf.arg(metavar="K")] = 1
    """Name the K most probable classes."""
    json: bool = False
    """Print a line of JSON for each image instead of the table."""
    output: Annotated[Path | None, shown("FILE")] = None
    """Write lines of JSON to a file instead. After an interruption the same command
    continues where the file ends; an image that could not be read has a line with its error, and is not tried again.
    Each path is predicted once."""
    devices: Annotated[int | None, shown("INT")] = None
    """How many of the local devices share a batch, each computing its part (default: all)."""


def run(options: Predict) -> int:
    """Predict and report, a batch at a time. 0, or 1 if an image could not be read."""
    if options.top < 1:
        raise UserError(f"--top: got {options.top}, expected at least 1")
    if not options.images:
        raise UserError("IMAGE: got none, expected image files or folders of images after the run's folder")
    path = options.located()
    names: list[str] = []
    passed: dict[str, str] = {}
    empty = 0
    for argument in options.images:
        found = list(walk_images(argument, passed.__setitem__))
        names += found
        if not found:
            empty += 1
            print(f"{printable(argument)}: no image in this folder", file=sys.stderr)
    if not names:
        raise UserError("IMAGE: found no image to predict, expected image files or folders of images")
    if passed:
        first, reason = next(iter(passed.items()))
        more = f", and {len(passed) - 1:,} more" if len(passed) > 1 else ""
        print(f"passed over: {printable(first)}: {reason}{more}", file=sys.stderr)

    from train.devices import local_devices
    from train.runs.model_file import open_run

    devices = local_devices(options.devices)
    trained = open_run(path)
    if options.output is None:
        failed, asked = _print(options, names, trained, devices)
    else:
        failed, asked = _write(options, options.output, names, trained, devices)
    failed += empty
    if failed:
        print(f"{failed:,} of {asked + empty:,} could not be read", file=sys.stderr)
    return 1 if failed else 0


def _compiled(options: Predict, trained: "Trained") -> "pj.Predictor":
    from train.telling import compiling

    with compiling("kernels", log=False):
        return options.compiled(trained.model)


def _print(options: Predict, names: list[str], trained: "Trained", devices: list) -> tuple[int, int]:
    """Predict to standard output. Returns how many images could not be read, and of how many."""
    from train.predict.jsonl_file import json_line
    from train.predict.predictor import Predictor
    from train.predict.stream import predict_images

    class_names = trained.about.class_names
    top = min(options.top, len(class_names))
    widest = max(width(printable(name)) for name in names)
    write = json_line if options.json else Table(class_names, top, widest)
    failed = 0
    # No bar on a terminal: the lines show the progress, and a bar would come between them.
    bar = not sys.stdout.isatty()
    for told in predict_images(names, Predictor(_compiled(options, trained), devices), top, bar=bar):
        lines = [write(name, record) for name, record in told if "error" not in record]
        failed += len(told) - len(lines)
        sys.stdout.write("".join(lines))
        sys.stdout.flush()
    return failed, len(names)


class Table:
    """Lines of a table, under a header before the first; columns are as wide as the longest class and the ``widest``
    path."""

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


def _write(options: Predict, output: Path, names: list[str], trained: "Trained", devices: list) -> tuple[int, int]:
    """Predict to a file, from where it ends. Returns how many images in it could not be read, and of how many."""
    from train.predict.jsonl_file import opened
    from train.predict.predictor import Predictor
    from train.predict.stream import predict_images

    top = min(options.top, len(trained.about.class_names))
    with opened(output, f"{trained.digest()} {options.leaving()}".strip(), top) as file:
        before = len(file.known)
        missing = [name for name in dict.fromkeys(names) if name not in file.known]
        try:
            if missing:
                predictor = Predictor(_compiled(options, trained), devices)
                for told in predict_images(missing, predictor, top, done=before):
                    file.write(told)
        except (KeyboardInterrupt, SystemExit):
            print(
                f"\n{len(file.known):,} of {before + len(missing):,} images are in {printable(output)}; the same "
                "command goes on from there",
                file=sys.stderr,
            )
            raise
    print(f"{printable(output)}: {len(file.known):,} images, {len(file.known) - before:,} of them now")
    return file.failed, len(file.known)
