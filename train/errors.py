"""The one error that ends the program with a line instead of a traceback."""


class UserError(ValueError):
    """Something the user can put right: a flag's value, a missing data set, an unreadable file.

    The message names what was asked for, what was found, and the way out.
    """

    code = 2
    """What the program exits with."""
