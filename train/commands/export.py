"""``python -m train export RUN FILE``: a run's model as one file that jax alone, or an ONNX runtime, runs."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from train.config import shown
from train.errors import UserError
from train.runs.source import OfPredictor
from train.terminal import printable

Platform = Literal["cpu", "cuda", "rocm", "tpu"]


@dataclass(frozen=True)
class Export(OfPredictor):
    """Write a run's model as one file for any batch size, with its classes' names, that runs without this project.

    FILE.onnx becomes an ONNX graph that generates the kernels itself; any other name a program for jax, which
    puppet_jax.load(FILE) opens. README.txt in it, which is a zip file, tells how jax runs it by itself.
    """

    file: Annotated[Path, tyro.conf.Positional, shown("FILE")]
    """To write."""
    platforms: tuple[Platform, ...] = ("cpu", "cuda", "rocm", "tpu")
    """What a program for jax is to run on."""
    weights: Literal["float32", "float16", "int8"] = "float32"
    """What its numbers are stored as; int8 with a scale for each row."""
    batch: Literal[1] | None = None
    """1: an ONNX graph of one image, all shapes fixed, for compilers."""
    overwrite: bool = False
    """Replace a file that is there, once the new one is whole."""


def run(options: Export) -> int:
    """Write the file, and return 0."""
    folder = options.located()
    name = printable(options.file)
    if options.file.exists() and not (options.overwrite and options.file.is_file()):
        raise UserError(f"FILE: {name} is there already; choose another name, or replace a file with --overwrite")
    if not options.platforms:
        raise UserError("--platforms: got none, expected one or more of cpu, cuda, rocm, tpu")

    import puppet_jax as pj
    from train.runs.model_file import open_run
    from train.telling import compiling

    trained = open_run(folder)
    height, width = trained.about.image_size
    channels = trained.about.create.in_channels
    with compiling("kernels", log=False):
        predict = options.compiled(trained.model)
    kind = {1: "grey by luma (ITU-R 601)", 3: "RGB"}.get(channels, f"{channels} channels")
    try:
        with compiling("the program", log=False):
            pj.export(
                predict,
                options.file,
                platforms=options.platforms,
                weights=options.weights,
                batch=options.batch,
                preprocessing=f"{kind}; scaled so that it just covers {height}x{width} pixels (height x width), the "
                "middle cut out; uint8 levels, nothing subtracted or divided",
            )
    except (ImportError, ValueError) as error:
        raise UserError(f"RUN: {error}") from error
    print(f"written: {name} ({options.file.stat().st_size:,} bytes)", file=sys.stderr)
    return 0
