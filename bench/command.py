"""What commands that measure have in common: options, and the way from a part's module to its file and table.

A part is a module with ``FILE``, the name of its result, and ``measure(options, result, path)``, which fills a result
that says already where it comes from, and may write it to ``path`` as far as it has come. ``result["rows"]`` are rows
of ``bench.target``.
"""

import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path

from bench import machine, results_file, target
from train.errors import UserError


@dataclasses.dataclass(frozen=True)
class Options:
    """What every part may ask for."""

    rounds: int = 5
    """Turns of every contender."""
    without: tuple[str, ...] = ()
    """Contenders to leave out, by name."""
    cores: int | None = None
    """Use this many of the cores for contenders; none: all that this process may use."""
    data: str = "cifar10"
    """Where a data set is needed, its name as ``python -m train`` takes it."""
    data_dir: Path | None = None
    """Where TensorFlow Datasets keeps it (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets)."""
    quick: bool = False
    """Tiny sizes, digits, two rounds at most: shows that it runs, measures nothing, writes only where --output says."""
    output: Path | None = None
    """Folder for the results; none: bench/results."""
    parts: tuple[str, ...] = ()


def run(options: Options, parts: dict[str, str]) -> int:
    """Measure the chosen parts, or all: their names and modules. 0; 1 if nothing could be measured or a process failed;
    2 for options that cannot be."""
    options = dataclasses.replace(options, parts=options.parts or tuple(parts))
    if options.rounds < 1:
        print(f"error: --rounds: got {options.rounds}, expected at least 1", file=sys.stderr)
        return 2
    if options.quick:
        options = dataclasses.replace(options, rounds=min(options.rounds, 2), data="digits")
    folder = options.output or (None if options.quick else results_file.FOLDER)
    code = 0
    for name in dict.fromkeys(parts[part] for part in options.parts):
        module = importlib.import_module(f"bench.{name}")
        result = {**machine.describe(), "rounds": options.rounds, "quick": options.quick}
        path = folder and folder / module.FILE.format(data=Path(options.data).name)
        try:
            module.measure(options, result, path)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except subprocess.CalledProcessError as failed:
            print(failed.stdout, failed.stderr, f"error: {failed}", sep="\n", file=sys.stderr)
            code = 1
            continue
        results_file.write(path, result)
        print(target.table(result["rows"]), f"written: {path}" if path else "", sep="\n\n", flush=True)
        code = code if result["rows"] else 1
    return code
