"""The error for a Python package that is not installed."""

from train.errors import UserError


def missing(package: str, data: str | None = None) -> UserError:
    """The error for ``package``, which every run needs, or those on ``--data data`` do."""
    return UserError(
        f"{f'--data {data}: ' if data else ''}the Python package {package} is missing, expected it to be installed; "
        'install the trainer\'s packages with: pip install ".[train]"'
    )
