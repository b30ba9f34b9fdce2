"""``python -m train predict RUN IMAGE…``: class, probability, complexity and depth of images in files."""

import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from train.data.walk import Passed, walk_images
from train.errors import UserError
from train.runs.source import locate
from train.terminal import printable, width

if TYPE_CHECKING:
    from train.predict.jsonl_file import PredictionsFile
    from train.predict.predictor import Predictor
    from train.runs.model_file import Images, Trained


@dataclass(frozen=True)
class Predict:
    """Say what a trained model sees in images: class, probability, complexity in bits and depth in layers.

    Images are converted to grey or colour as those that the model was trained on, scaled to cover their size, and cut
    to it in the middle. Those that cannot be read are named on standard error and the rest are predicted; the exit code
    then is 1.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help_behavior_hint="")]
    """Folder that python -m train left, the name of a pretrained model, or a released .safetensors file."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...", help_behavior_hint="")]
    """Image files, or folders: all images in them and in the folders below."""
    top: Annotated[int, tyro.conf.arg(metavar="K")] = 1
    """Name the K most probable classes."""
    json: bool = False
    """Print a line of JSON for each image instead of the table."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Write lines of JSON to a file instead, whose name ends in .jsonl. After an interruption the same command
    continues where the file ends; an image that could not be read has a line with its error, and is not tried again.
    Each path is predicted once."""
    devices: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """How many of the local devices share a batch, each computing its part (default: all)."""


def run(options: Predict) -> int:
    """Predict and report, a batch at a time. 0, or 1 if an image could not be read."""
    if options.top < 1:
        raise UserError(f"--top: got {options.top}, expected at least 1")
    if not options.images:
        raise UserError("IMAGE: got none, expected image files or folders of images after the run's folder")
    if options.output is not None and options.json:
        raise UserError("--json: prints lines of JSON, and --output writes them to a file; give one of them")
    if options.output is not None and options.output.suffix.lower() != ".jsonl":
        raise UserError(
            f"--output: got {printable(options.output)}, expected a name that ends in .jsonl (lines of JSON)"
        )
    path = locate(options.run)  # before jax is imported, which takes seconds
    arguments = [str(path) for path in options.images]
    empty = [argument for argument in arguments if next(walk_images(argument), None) is None]
    for folder in empty:
        print(f"{printable(folder)}: no image in this folder", file=sys.stderr)
    if len(empty) == len(arguments):
        raise UserError("IMAGE: found no image to predict, expected image files or folders of images")

    from train.predict.predictor import choose_devices
    from train.runs.model_file import open_run

    devices = choose_devices(options.devices)
    trained = open_run(path)
    passed = _Passed()
    if options.output is None:
        failed, asked = _print(options, arguments, trained, devices, passed)
    else:
        failed, asked = _write(options, options.output, arguments, trained, devices, passed)
    passed.tell()
    failed, asked = failed + len(empty), asked + len(empty)
    if failed:
        print(f"{failed:,} of {asked:,} could not be read", file=sys.stderr)
    return 1 if failed else 0


class _Passed:
    """What a walk has passed over: counted, and the first named."""

    def __init__(self) -> None:
        self.count, self.first = 0, ""

    def __call__(self, path: str, reason: str) -> None:
        self.count += 1
        self.first = self.first or f"{printable(path)}: {reason}"

    def tell(self) -> None:
        if self.count:
            more = f", and {self.count - 1:,} more" if self.count > 1 else ""
            print(f"passed over: {self.first}{more}", file=sys.stderr)


def _print(
    options: Predict, arguments: list[str], trained: "Trained", devices: list, passed: _Passed
) -> tuple[int, int]:
    """Predict to standard output. Returns how many images could not be read, and of how many."""
    from train.predict.formats import Table
    from train.predict.jsonl_file import json_line
    from train.predict.predictor import Predictor
    from train.predict.stream import predict_images

    images = trained.images()
    top = min(options.top, len(images.class_names))
    count = widest = 0
    for path in _walk(arguments, passed):  # a first pass for the count: names are not kept, as there may be millions
        count += 1
        widest = max(widest, 0 if options.json else width(printable(path)))
    line = json_line if options.json else Table(images.class_names, top, widest)
    predictor = Predictor(trained.model, devices)
    failed = 0
    # No bar on a terminal: the lines show the progress, and a bar would come between them.
    for told in predict_images(_walk(arguments), count, images, predictor, top, bar=not sys.stdout.isatty()):
        lines = [line(name, record) for name, record in told if "error" not in record]
        failed += len(told) - len(lines)
        sys.stdout.write("".join(lines))
        sys.stdout.flush()
    return failed, count


def _write(
    options: Predict, output: Path, arguments: list[str], trained: "Trained", devices: list, passed: _Passed
) -> tuple[int, int]:
    """Predict to a file, from where it ends. Returns how many images in it could not be read, and of how many."""
    from train.predict.jsonl_file import PredictionsFile, describe
    from train.predict.predictor import Predictor

    images = trained.images()
    top = min(options.top, len(images.class_names))
    about = describe(options.run, trained.about, trained.digest(), top, arguments)
    with PredictionsFile(output, about) as file:
        count = sum(1 for _ in missing(file, arguments, passed))
        try:
            if count:
                add(file, arguments, count, images, Predictor(trained.model, devices), top)
        except (KeyboardInterrupt, SystemExit):
            print(
                f"\n{file.count:,} of {file.count - file.added + count:,} images are in {printable(output)}; the same "
                "command goes on from there",
                file=sys.stderr,
            )
            raise
    print(f"{printable(output)}: {file.count:,} images, {file.added:,} of them now")
    return file.failed, file.count


def missing(
    file: "PredictionsFile", arguments: Sequence[str], passed: Passed = lambda path, reason: None
) -> Iterator[str]:
    """The images that are not in a file; one that several arguments lead to comes once."""
    before: set[tuple[str, ...]] = set()
    for argument in arguments:
        for name in walk_images(argument, passed):
            parts = Path(name).parts if before else ()
            if not any(parts[:length] in before for length in range(len(parts) + 1)) and name not in file:
                yield name
        before.add(Path(argument).parts)


def add(
    file: "PredictionsFile", arguments: Sequence[str], count: int, images: "Images", predictor: "Predictor", top: int
) -> None:
    """Predict the ``count`` images that are missing from a file, and add their lines to it, a batch at a time."""
    from train.predict.stream import predict_images

    for told in predict_images(missing(file, arguments), count, images, predictor, top, done=file.count):
        file.write(told)


def _walk(arguments: Iterable[str], passed: Passed = lambda path, reason: None) -> Iterator[str]:
    return itertools.chain.from_iterable(walk_images(argument, passed) for argument in arguments)
