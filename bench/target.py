"""A figure that is held to a target: one row of a result, and of the table that a command prints."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from bench.table import markdown

QUARTILES = (0.25, 0.75)
LEAST_TO_GREATEST = (0.0, 1.0)


def row(
    what: str,
    rounds: Sequence[float],
    sense: Literal[">=", "<="],
    target: float,
    spread: tuple[float, float] = QUARTILES,
) -> dict:
    """The median of the rounds' values and two of their quantiles, and whether the median reaches the target.

    Raises:
        ValueError: no rounds.
    """
    if len(rounds) == 0:
        raise ValueError("rounds: expected one value at least")
    low, median, high = (float(np.quantile(rounds, q)) for q in (spread[0], 0.5, spread[1]))
    reached = median >= target if sense == ">=" else median <= target
    found = {"what": what, "median": median, "low": low, "high": high, "rounds": [float(each) for each in rounds]}
    return found | {"sense": sense, "target": target, "reached": bool(reached)}


def table(rows: Sequence[dict], spread: str = "quartiles") -> str:
    """Rows as Markdown."""
    lines = [
        (
            each["what"],
            f"{each['median']:.3g} ({each['low']:.3g} to {each['high']:.3g})",
            f"{'≥' if each['sense'] == '>=' else '≤'} {each['target']:g}",
            "reached" if each["reached"] else "missed",
        )
        for each in rows
    ]
    return markdown(("", f"median ({spread})", "target", ""), lines)
