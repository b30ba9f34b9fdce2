"""``python -m train predict RUN IMAGE…``: class, probability, complexity and depth of images in files."""

import itertools
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from train.data.walk import walk_images
from train.errors import UserError
from train.runs.reading import open_folder
from train.terminal import printable, width

if TYPE_CHECKING:
    from train.predict.formats import Prediction
    from train.predict.jsonl_file import PredictionsFile
    from train.predict.predictor import Outputs, Predictor
    from train.predict.read_ahead import Batch
    from train.runs.trained import Images, Trained


@dataclass(frozen=True)
class Predict:
    """Say what a trained model sees in images: class, probability, complexity in bits and depth in layers.

    Images are converted to grey or colour as those that the model was trained on, scaled to cover their size, and cut
    to it in the middle. Those that cannot be read are named on standard error and the rest are predicted; the exit code
    then is 1.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help_behavior_hint="")]
    """Folder that python -m train left."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...", help_behavior_hint="")]
    """Image files, or folders: all images in them and in the folders below."""
    top: Annotated[int, tyro.conf.arg(metavar="K")] = 1
    """Name the K most probable classes."""
    json: bool = False
    """Print a line of JSON for each image instead of the table."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """Write to a file instead, whose name ends in .jsonl (lines of JSON) or .parquet. After an interruption
    the same command continues where the file ends; an image that could not be read has a line with its error, and is
    not tried again. Each path is predicted once."""
    devices: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """How many of the local devices share a batch, each computing its part (default: all)."""


def run(options: Predict) -> int:
    """Predict and report, a batch at a time. 0, or 1 if an image could not be read."""
    _check(options)
    open_folder(options.run)  # before jax is imported, which takes seconds
    arguments = [str(path) for path in options.images]
    empty = [argument for argument in arguments if next(walk_images(argument), None) is None]
    for folder in empty:
        print(f"{printable(folder)}: no image in this folder", file=sys.stderr)
    if len(empty) == len(arguments):
        raise UserError("IMAGE: found no image to predict, expected image files or folders of images")

    from train.predict.predictor import choose_devices
    from train.runs.trained import open_run

    devices = choose_devices(options.devices)
    trained = open_run(options.run)
    if options.output is None:
        failed, asked = _print(options, arguments, trained, devices)
    else:
        failed, asked = _write(options, options.output, arguments, trained, devices)
    failed, asked = failed + len(empty), asked + len(empty)
    if failed:
        print(f"{failed:,} of {asked:,} could not be read", file=sys.stderr)
    return 1 if failed else 0


def _check(options: Predict) -> None:
    if options.top < 1:
        raise UserError(f"--top: got {options.top}, expected at least 1")
    if not options.images:
        raise UserError("IMAGE: got none, expected image files or folders of images after the run's folder")
    if options.output is None:
        return
    if options.json:
        raise UserError("--json: prints lines of JSON, and --output writes them to a file; give one of them")
    if options.output.suffix.lower() not in (".jsonl", ".parquet"):
        raise UserError(
            f"--output: got {printable(options.output)}, expected a name that ends in .jsonl (lines of JSON) or "
            ".parquet"
        )
    if _is_parquet(options.output):
        from train.predict.parquet_file import pyarrow

        pyarrow()


def _print(options: Predict, arguments: list[str], trained: "Trained", devices: list) -> tuple[int, int]:
    """Predict to standard output. Returns how many images could not be read, and of how many."""
    from train.predict.formats import JsonLines, Table
    from train.predict.predictor import Predictor
    from train.predict.stream import predict_images

    images = trained.images()
    top = min(options.top, len(images.class_names))
    count = widest = 0
    for path in _walk(arguments):  # a first pass for the count: names are not kept, as there may be millions
        count += 1
        if not options.json:
            widest = max(widest, width(printable(path)))
    line = JsonLines(images.class_names) if options.json else Table(images.class_names, top, widest)
    predictor = Predictor(trained.model, devices)
    failed = 0
    # No bar on a terminal: the lines show the progress, and a bar would come between them.
    for batch, found in predict_images(_walk(arguments), count, images, predictor, bar=not sys.stdout.isatty()):
        failed += len(batch.errors)
        sys.stdout.write("".join(line(name, each) for name, each in _by_name(batch, found, top) if each is not None))
        sys.stdout.flush()
    return failed, count


def _write(options: Predict, output: Path, arguments: list[str], trained: "Trained", devices: list) -> tuple[int, int]:
    """Predict to a file, from where it ends. Returns how many images in it could not be read, and of how many."""
    from train.predict import parquet_file
    from train.predict.jsonl_file import PredictionsFile, describe
    from train.predict.predictor import Predictor

    images = trained.images()
    top = min(options.top, len(images.class_names))
    about = describe(options.run, trained.about, trained.digest(), top, arguments)
    path, unchanged = output, False
    if _is_parquet(output):
        path, unchanged = parquet_file.lines_path(output), parquet_file.unpack(output, about)
    with PredictionsFile(path, about) as file:
        left = sum(1 for _ in missing(file, arguments))
        try:
            if left:
                add(file, missing(file, arguments), left, images, Predictor(trained.model, devices), top)
        except (KeyboardInterrupt, SystemExit):
            print(
                f"\n{file.count:,} of {file.count - file.added + left:,} images are in {printable(path)}; the same "
                "command goes on from there",
                file=sys.stderr,
            )
            raise
        if _is_parquet(output):
            if file.added or not unchanged:
                parquet_file.pack(output, about)
            parquet_file.drop_lines(output)
    print(f"{printable(output)}: {file.count:,} images, {file.added:,} of them now")
    return file.failed, file.count


def missing(file: "PredictionsFile", arguments: list[str]) -> Iterator[str]:
    """The images that are not in a file; one that several arguments lead to comes once."""
    from train.predict.jsonl_file import once

    parts = sorted(Path(argument).parts for argument in arguments)
    overlap = any(after[: len(before)] == before for before, after in itertools.pairwise(parts))
    # Remembering all images takes memory, so only where one can come twice.
    names = once(_walk(arguments)) if overlap else _walk(arguments)
    return (name for name in names if name not in file)


def add(
    file: "PredictionsFile", names: Iterable[str], count: int, images: "Images", predictor: "Predictor", top: int
) -> None:
    """Predict ``count`` images and add their lines to a file, each batch as soon as it is there."""
    from train.predict.formats import JsonLines
    from train.predict.stream import one_line, predict_images

    line = JsonLines(images.class_names)
    for batch, found in predict_images(names, count, images, predictor, done=file.count):
        lines = [
            line.error(name, one_line(batch.errors[place])) if each is None else line(name, each)
            for place, (name, each) in enumerate(_by_name(batch, found, top))
        ]
        file.write(lines, len(batch.errors))


def _by_name(batch: "Batch", found: "Outputs | None", top: int) -> Iterator[tuple[str, "Prediction | None"]]:
    """Each image of a batch with its prediction; ``None`` if it could not be read."""
    from train.predict.formats import predictions

    told = iter(() if found is None else predictions(found, top))
    for place, name in enumerate(batch.names):
        yield name, None if place in batch.errors else next(told)


def _walk(arguments: list[str]) -> Iterator[str]:
    return itertools.chain.from_iterable(map(walk_images, arguments))


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"
