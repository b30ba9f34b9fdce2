"""``python -m bench COMMAND``: runs one benchmark, or renders what they found.

To add one: a module with a dataclass of options and ``run(options) -> exit code``, and a line in the table below.
"""

import signal
import sys

import tyro

from bench import accuracy, report, speed

_BENCHMARKS = {
    "speed": (speed.Speed, speed.run),
    "accuracy": (accuracy.Accuracy, accuracy.run),
    "report": (report.Report, report.run),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line ``arguments`` (``None`` for the process's own) and return its exit code."""
    options = tyro.extras.subcommand_cli_from_dict(
        {name: options for name, (options, _) in _BENCHMARKS.items()},
        prog="python -m bench",
        description="Each writes JSON to bench/results/ and prints a Markdown table; COMMAND --help tells its options.",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    run = next(run for kind, run in _BENCHMARKS.values() if type(options) is kind)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of the exits that end the worker processes
    try:
        return run(options)
    except KeyboardInterrupt:
        print("\ninterrupted; measurements that were finished are in the output file", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
