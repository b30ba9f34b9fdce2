"""``python -m bench``: reads the command line and runs one benchmark.

To add one: a module with a dataclass of options and ``run(options) -> exit code``, and a line in the table below.
"""

import functools
import operator
import signal
import sys
from typing import Annotated

import tyro

from bench import (
    accuracy,
    export,
    memory,
    pages,
    precision,
    predict,
    puppetize,
    recipe,
    report,
    scaling,
    speed,
    trainer,
)

_BENCHMARKS = {
    "accuracy": (accuracy.Accuracy, accuracy.run),
    "speed": (speed.Speed, speed.run),
    "export": (export.Export, export.run),
    "memory": (memory.Memory, memory.run),
    "pages": (pages.Pages, pages.run),
    "precision": (precision.Precision, precision.run),
    "predict": (predict.Predict, predict.run),
    "puppetize": (puppetize.Puppetize, puppetize.run),
    "recipe": (recipe.Recipe, recipe.run),
    "report": (report.Report, report.run),
    "scaling": (scaling.Scaling, scaling.run),
    "trainer": (trainer.Trainer, trainer.run),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line ``arguments`` (``None`` for the process's own) and return its exit code."""
    commands = (Annotated[options, tyro.conf.subcommand(name)] for name, (options, _) in _BENCHMARKS.items())
    chosen = tyro.cli(
        functools.reduce(operator.or_, commands),
        prog="python -m bench",
        description="Benchmarks of puppet_jax. JSON goes to bench/results/, a Markdown table to standard output.",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    runs = dict(_BENCHMARKS.values())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of the exits that end the worker processes
    try:
        return runs[type(chosen)](chosen)
    except KeyboardInterrupt:
        print("\ninterrupted; measurements that were finished are in the output file", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
