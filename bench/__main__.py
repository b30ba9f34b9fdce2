"""``python -m bench COMMAND``: runs one benchmark, or renders what they found.

To add one: a module with a dataclass of options and ``run(options) -> exit code``, and a line in the table below. A
command of two words answers a question that belongs to the first word's.
"""

import signal
import sys

import tyro

from bench import (
    accuracy,
    export,
    memory,
    pages,
    precision,
    predict,
    puppetize,
    report,
    scaling,
    speed,
    trainer,
)

_BENCHMARKS = {
    "speed": (speed.Speed, speed.run),
    "speed scaling": (scaling.Scaling, scaling.run),
    "speed export": (export.Export, export.run),
    "speed predict": (predict.Predict, predict.run),
    "speed puppetize": (puppetize.Puppetize, puppetize.run),
    "speed trainer": (trainer.Trainer, trainer.run),
    "accuracy": (accuracy.Accuracy, accuracy.run),
    "accuracy precision": (precision.Precision, precision.run),
    "memory": (memory.Memory, memory.run),
    "memory pages": (pages.Pages, pages.run),
    "report": (report.Report, report.run),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line ``arguments`` (``None`` for the process's own) and return its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    name = next((name for name in (" ".join(given[:2]), " ".join(given[:1])) if name in _BENCHMARKS), None)
    if name is None:
        asked_for_help = given[:1] in ([], ["-h"], ["--help"])
        problem = "" if asked_for_help else f"error: no command {given[0]!r}\n\n"
        print(f"{problem}{_commands()}", file=sys.stdout if asked_for_help else sys.stderr)
        sys.exit(0 if asked_for_help else 2)
    options, run = _BENCHMARKS[name]
    chosen = tyro.cli(
        options,
        prog=f"python -m bench {name}",
        args=given[len(name.split()) :],
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of the exits that end the worker processes
    try:
        return run(chosen)
    except KeyboardInterrupt:
        print("\ninterrupted; measurements that were finished are in the output file", file=sys.stderr)
        return 130


def _commands() -> str:
    lines = [f"  {name:<20}{' '.join(options.__doc__.split())}" for name, (options, _) in _BENCHMARKS.items()]
    about = "Each command writes JSON to bench/results/ and prints a Markdown table; COMMAND --help tells its options."
    return "\n".join(["usage: python -m bench COMMAND [OPTIONS]", "", about, "", *lines])


if __name__ == "__main__":
    sys.exit(main())
