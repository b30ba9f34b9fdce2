"""``python -m bench speed``: how long things take, beside other engines, static twins and plain lowerings.

A part is a module with ``FILE``, the name of its result, and ``measure(options, result, path)``, which fills a result
that says already where it comes from, and may write it to ``path`` as far as it has come. ``result["rows"]`` are rows
of ``bench.target``.
"""

import dataclasses
import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from bench import machine, results_file, target

# Part -> module.
PARTS = {
    **dict.fromkeys(("predict", "train", "generate", "first_answer"), "comparison"),
    "sizes": "sizes",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What every part may ask for."""

    rounds: int = 5
    """Turns of every contender."""
    quick: bool = False
    """Tiny sizes, two rounds at most: shows that it runs, measures nothing, writes only where --output says."""
    output: Path | None = None
    """Folder for the results; none: bench/results."""


@dataclasses.dataclass(frozen=True)
class Speed(Options):
    """Time prediction, training and generation beside peers; first answers, sizes of images."""

    parts: Annotated[tuple[Literal[tuple(PARTS)], ...], tyro.conf.Positional] = ()  # type: ignore[valid-type]
    """What to measure; none: everything. Of predict, train, generate and first_answer, which share a result,
    those not asked for stay in it."""


def run(options: Speed) -> int:
    options = dataclasses.replace(options, parts=options.parts or tuple(PARTS))
    return measure([PARTS[part] for part in options.parts], options)


def measure(modules: Sequence[str], options: Options) -> int:
    """Run modules by name. 0; 1 if nothing could be measured or a process failed; 2 for options that cannot be."""
    if options.rounds < 1:
        print(f"error: --rounds: got {options.rounds}, expected at least 1", file=sys.stderr)
        return 2
    if options.quick:
        options = dataclasses.replace(options, rounds=min(options.rounds, 2))
    folder = options.output or (None if options.quick else results_file.FOLDER)
    code = 0
    for name in dict.fromkeys(modules):
        module = importlib.import_module(f"bench.{name}")
        result = {**machine.describe(), "rounds": options.rounds, "quick": options.quick}
        path = folder and folder / module.FILE
        try:
            module.measure(options, result, path)
        except subprocess.CalledProcessError as failed:
            print(failed.stdout, failed.stderr, f"error: {failed}", sep="\n", file=sys.stderr)
            code = 1
            continue
        results_file.write(path, result)
        print(target.table(result["rows"]), f"written: {path}" if path else "", sep="\n\n", flush=True)
        code = code if result["rows"] else 1
    return code
