"""``python -m train predict RUN IMAGE…``: class, probability, complexity and depth of images in files."""

import itertools
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from train.data.walk import Passed, walk_images
from train.errors import UserError
from train.runs.source import locate
from train.terminal import printable, width

if TYPE_CHECKING:
    from train.predict.formats import Prediction
    from train.predict.jsonl_file import PredictionsFile
    from train.predict.parts import Place
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
    """Folder that python -m train left, the name of a pretrained model, or a released .safetensors file."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...", help_behavior_hint="")]
    """Image files, or folders: all images in them and in the folders below."""
    top: Annotated[int, tyro.conf.arg(metavar="K")] = 1
    """Name the K most probable classes."""
    json: bool = False
    """Print a line of JSON for each image instead of the table."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FILE|DIR", help_behavior_hint="")] = None
    """Write to a file instead, whose name ends in .jsonl (lines of JSON) or .parquet; or to a folder, in which each of
    several processes writes a part of its own as lines of JSON. After an interruption the same command continues where
    the file ends; an image that could not be read has a line with its error, and is not tried again. Each path is
    predicted once."""
    devices: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """How many of the local devices share a batch, each computing its part (default: all)."""
    distributed: bool = False
    """Share the images with the other processes that Slurm, Open MPI or MPICH has started; with --output DIR. Each
    takes the device of its number on its machine."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT", help_behavior_hint="")] = None
    """As for training, so that one command line serves both; predicting needs no connection."""
    process_id: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Which of the processes this one is, from 0."""
    process_count: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """How many processes share the images; with --output DIR."""


def run(options: Predict) -> int:
    """Predict and report, a batch at a time. 0, or 1 if an image could not be read."""
    place = _check(options)
    path = locate(options.run)  # before jax is imported, which takes seconds
    arguments = [str(path) for path in options.images]
    empty = [argument for argument in arguments if next(walk_images(argument), None) is None]
    for folder in empty:
        print(f"{printable(folder)}: no image in this folder", file=sys.stderr)
    if len(empty) == len(arguments):
        raise UserError("IMAGE: found no image to predict, expected image files or folders of images")

    from train.predict.predictor import choose_devices
    from train.runs.trained import open_run

    devices = choose_devices(options.devices, None if place is None else place.local)
    trained = open_run(path)
    passed = _Passed()
    if options.output is None:
        failed, asked = _print(options, arguments, trained, devices, passed)
    else:
        failed, asked = _write(options, options.output, place, arguments, trained, devices, passed)
    if place is None or place.number == 0:  # all processes walk over the same
        passed.tell()
    failed, asked = failed + len(empty), asked + len(empty)
    if failed:
        print(f"{failed:,} of {asked:,} could not be read", file=sys.stderr)
    return 1 if failed else 0


def _check(options: Predict) -> "Place | None":
    """The place of this process among others, if there are any."""
    from train.predict.parts import Place, place

    if options.top < 1:
        raise UserError(f"--top: got {options.top}, expected at least 1")
    if not options.images:
        raise UserError("IMAGE: got none, expected image files or folders of images after the run's folder")
    found = place(options.distributed, options.process_id, options.process_count)
    if options.coordinator is not None and found is None:
        raise UserError("--process-id and --process-count: missing, expected with --coordinator")
    if options.output is None:
        if found is not None:
            raise UserError("--output: missing, expected a folder, in which each process writes a part of its own")
        return None
    if options.json:
        raise UserError("--json: prints lines of JSON, and --output writes them to a file; give one of them")
    if _is_folder(options.output):
        return found or Place(0, 1)
    if options.output.suffix.lower() not in (".jsonl", ".parquet"):
        raise UserError(
            f"--output: got {printable(options.output)}, expected a name that ends in .jsonl (lines of JSON) or "
            ".parquet, or a folder"
        )
    if found is not None:
        raise UserError(
            f"--output: got {printable(options.output)}, expected a folder, in which each process writes its own part"
        )
    if _is_parquet(options.output):
        from train.predict.parquet_file import pyarrow

        pyarrow()
    return None


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
    from train.predict.formats import JsonLines, Table
    from train.predict.predictor import Predictor
    from train.predict.stream import predict_images

    images = trained.images()
    top = min(options.top, len(images.class_names))
    count = widest = 0
    for path in _walk(arguments, passed):  # a first pass for the count: names are not kept, as there may be millions
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


def _write(
    options: Predict,
    output: Path,
    place: "Place | None",
    arguments: list[str],
    trained: "Trained",
    devices: list,
    passed: _Passed,
) -> tuple[int, int]:
    """Predict to a file, from where it ends. Returns how many images in it could not be read, and of how many."""
    from train.predict import parquet_file, parts
    from train.predict.jsonl_file import PredictionsFile, describe
    from train.predict.predictor import Predictor

    images = trained.images()
    top = min(options.top, len(images.class_names))
    about = describe(options.run, trained.about, trained.digest(), top, arguments)
    unchanged = False
    if place is not None:
        output = parts.part(output, place)
    path = output
    if _is_parquet(output):
        path, unchanged = parquet_file.lines_path(output), parquet_file.unpack(output, about)

    def left(file: PredictionsFile, passed: Passed = lambda path, reason: None) -> Iterator[str]:
        names = missing(file, arguments, passed)
        return names if place is None else parts.own(names, place)

    with PredictionsFile(path, about) as file:
        count = sum(1 for _ in left(file, passed))
        try:
            if count:
                add(file, left(file), count, images, Predictor(trained.model, devices), top)
        except (KeyboardInterrupt, SystemExit):
            print(
                f"\n{file.count:,} of {file.count - file.added + count:,} images are in {printable(path)}; the same "
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


def missing(file: "PredictionsFile", arguments: list[str], passed: Passed = lambda path, reason: None) -> Iterator[str]:
    """The images that are not in a file; one that several arguments lead to comes once."""
    from train.predict.jsonl_file import once

    parts = sorted(Path(argument).parts for argument in arguments)
    overlap = any(after[: len(before)] == before for before, after in itertools.pairwise(parts))
    # Remembering all images takes memory, so only where one can come twice.
    names = once(_walk(arguments, passed)) if overlap else _walk(arguments, passed)
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


def _walk(arguments: list[str], passed: Passed = lambda path, reason: None) -> Iterator[str]:
    return itertools.chain.from_iterable(walk_images(argument, passed) for argument in arguments)


def _is_folder(path: Path) -> bool:
    return path.is_dir() or not path.suffix


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"
