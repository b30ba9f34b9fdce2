"""The one error that ends the program with a line instead of a traceback, and how a line tells of any error."""


class UserError(ValueError):
    """Something the user can put right: a flag's value, a missing data set, an unreadable file.

    The message names what was asked for, what was found, and the way out. Functions that say that something is refused,
    or that take what the user gave, raise it.
    """

    code = 2
    """What the program exits with."""


RESUME = "go on with: python -m train --resume "
"""How a note begins that tells how to go on with a run (:meth:`BaseException.add_note`)."""


def told(text: str, error: BaseException) -> str:
    """The text and how to go on, if the error has a note of that; not the notes of JAX, which are about tracebacks."""
    return "; ".join([text, *(note for note in getattr(error, "__notes__", ()) if note.startswith(RESUME))])


def missing(error: ModuleNotFoundError) -> str:
    """What to say of a Python package that is not installed."""
    return f'the Python package {error.name} is missing; install the trainer\'s packages with: pip install ".[train]"'
