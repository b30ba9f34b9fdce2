"""How the trainer's figures look."""

from contextlib import AbstractContextManager
from typing import Any

import matplotlib.style

# Okabe and Ito's palette, distinct for any colour vision, without its yellow, too faint on paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
STYLE: dict[str, Any] = {
    "figure.figsize": (7.0, 4.6),
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "legend.frameon": False,
    # The same numbers give the same bytes.
    "svg.hashsalt": "puppet-jax",
}


def style() -> AbstractContextManager:
    """A context in which figures look like this, whatever the user's ``matplotlibrc`` says."""
    return matplotlib.style.context(["default", STYLE])  # type: ignore[list-item]


def plain(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign, as in a folder's name, starts no formula."""
    return text.replace("$", r"\$")
