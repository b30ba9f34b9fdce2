"""A figure over rounds, and the target it is held to: one row of a result, and of the table that a command prints."""

from collections.abc import Sequence
from typing import Literal

import numpy as np


def spread(values: Sequence[float]) -> dict:
    """Median and quartiles of the rounds' values, and the values."""
    low, median, high = (float(np.quantile(values, q)) for q in (0.25, 0.5, 0.75))
    return {"median": median, "low": low, "high": high, "rounds": [float(each) for each in values]}


def ratio(over: Sequence[float], under: Sequence[float]) -> dict:
    """The spread of over[i] / under[i]: both of a round were measured seconds apart, under the same conditions."""
    return spread([one / other for one, other in zip(over, under, strict=True)])


def row(what: str, found: dict, sense: Literal[">=", "<="] | None = None, target: float | None = None) -> dict:
    """A spread under its name; with a target, whether its median reaches it."""
    reached = None if target is None else found["median"] >= target if sense == ">=" else found["median"] <= target
    return {"what": what, **found, "sense": sense, "target": target, "reached": reached}


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def table(rows: Sequence[dict]) -> str:
    """Rows of :func:`row` in Markdown."""
    lines = []
    for each in rows:
        goal = ("", "")
        if each["target"] is not None:
            goal = f"{each['sense']} {each['target']:g}", "reached" if each["reached"] else "missed"
        where = each.get("measurement", "")
        value = f"{each['median']:.3g} ({each['low']:.3g} to {each['high']:.3g})"
        lines.append((each["what"], where, value, *goal))
    return markdown(("", "in", "median (low to high)", "target", ""), lines)
