"""``python -m train``: reads the command line. Exit codes are those of :mod:`train.launch`."""

import sys

import tyro

from train.config import Config
from train.launch import launch


def main(arguments: list[str] | None = None) -> int:
    """Run the command line ``arguments`` (``None`` for the process's own) and return its exit code."""
    return launch(
        tyro.cli(
            Config,
            prog="python -m train",
            description="Train a Puppet-CNN and leave its parameters, metrics and figures in a folder.",
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
