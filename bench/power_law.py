"""How a cost grows with a size: the exponent p of cost = c · size^p, by least squares on logarithms."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Fit:
    """Exponent of the median costs over the rounds, and two kinds of doubt about it.

    Attributes:
        exponent: slope of ln(cost) against ln(size).
        standard_error: of the slope, from how far the costs are from a power law; ``None`` for two sizes, which every
            power law meets.
        low: with ``high`` the central 95 % of exponents over rounds drawn again with replacement: what the clock leaves
            in doubt.
        high: see ``low``.
        last: slope between the two greatest sizes alone, where fixed costs weigh least.
    """

    exponent: float
    standard_error: float | None
    low: float
    high: float
    last: float


def fit(sizes: Sequence[float], rounds: Sequence[Sequence[float]], seed: int = 0) -> Fit:
    """The exponent of costs measured in rounds.

    Args:
        sizes: n different positive sizes, in rising order.
        rounds: one line a round, of n positive costs, one for each size.
        seed: of the rounds drawn again.

    Raises:
        ValueError: fewer than two sizes, sizes that do not rise, no rounds, lines of another length, what is not
            positive and finite.
    """
    sizes, costs = np.asarray(sizes, float), np.asarray(rounds, float)
    if sizes.ndim != 1 or len(sizes) < 2 or not np.all(np.diff(sizes) > 0):
        raise ValueError(f"sizes: expected two at least, in rising order; got {sizes.tolist()}")
    if costs.ndim != 2 or costs.shape[0] < 1 or costs.shape[1] != len(sizes):
        raise ValueError(f"rounds: expected (rounds, {len(sizes)}), a cost for each size; got shape {costs.shape}")
    if not (np.all(sizes > 0) and np.all(costs > 0) and np.all(np.isfinite(costs)) and np.all(np.isfinite(sizes))):
        raise ValueError("sizes, rounds: expected positive finite numbers, as logarithms are taken")
    x, y = np.log(sizes), np.log(np.median(costs, axis=0))
    drawn = np.random.default_rng(seed).integers(0, len(costs), (RESAMPLES, len(costs)))
    again = _slope(x, np.log(np.median(costs[drawn], axis=1)))
    low, high = np.quantile(again, [0.025, 0.975])
    last = (y[-1] - y[-2]) / (x[-1] - x[-2])
    return Fit(float(_slope(x, y)), _standard_error(x, y), float(low), float(high), float(last))


def _slope(x, y):
    """Slope of y (…, n) against x (n,)."""
    centred = x - x.mean()
    return y @ centred / (centred @ centred)


def _standard_error(x, y) -> float | None:
    if len(x) < 3:
        return None
    centred = x - x.mean()
    residual = y - y.mean() - _slope(x, y) * centred
    return math.sqrt(float(residual @ residual) / (len(x) - 2) / float(centred @ centred))
