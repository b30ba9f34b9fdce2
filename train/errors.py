"""The one error that ends the program with a line instead of a traceback."""


class UserError(ValueError):
    """Something the user can put right: a flag's value, a missing data set, an unreadable file.

    The message names what was asked for, what was found, and the way out.
    """

    code = 2
    """What the program exits with."""


def missing(package: str, data: str | None = None) -> UserError:
    """The error for a Python package that is not installed, which every run needs, or those on ``--data data`` do."""
    return UserError(
        f"{f'--data {data}: ' if data else ''}the Python package {package} is missing, expected it to be installed; "
        'install the trainer\'s packages with: pip install ".[train]"'
    )
