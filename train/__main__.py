"""``python -m train``: hands the command line to :mod:`train.launch`."""

import sys

from train.launch import launch


def main(arguments: list[str] | None = None) -> int:
    """Run the command line ``arguments`` (``None`` for the process's own) and return its exit code."""
    return launch(sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
