"""What is said when a Python package that reads a data set is not installed."""

from train.errors import UserError


def missing(data: str, package: str) -> UserError:
    """The error for ``--data data``, which needs ``package``."""
    return UserError(
        f"--data {data}: the Python package {package} is missing, expected it to be installed; "
        'install the trainer\'s packages with: pip install ".[train]"'
    )
