"""Whether the process is this program's own, or somebody's who called it: a notebook, a service, a test."""

import sys

# Options of the interpreter whose value is an argument of its own.
_WITH_VALUE = ("-X", "-W", "--check-hash-based-pycs")


def is_own(package: str = "train") -> bool:
    """Whether the process was started as ``python -m package``.

    Only such a process may be started over, ended on the spot or have its standard output closed: in any other these
    belong to the caller. ``%run -m train`` in a notebook, ``runpy`` and debuggers have another command line.
    """
    options = iter(sys.orig_argv[1:])
    for option in options:
        if option == "-m":
            return next(options, None) == package
        if option in _WITH_VALUE:
            next(options, None)
        elif not option.startswith("-"):
            return False
    return False
