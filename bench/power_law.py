"""How a cost grows with a size: the exponent p of cost = c · size^p, by least squares on logarithms."""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000


def fit(sizes: Sequence[float], rounds: Sequence[Sequence[float]], seed: int = 0) -> dict[str, float]:
    """The exponent of costs measured in rounds.

    Args:
        sizes: n different positive sizes, two at least.
        rounds: one line a round, of n positive costs, one for each size.
        seed: of the rounds drawn again.

    Returns:
        ``exponent``, of the median costs over the rounds; ``low`` and ``high``, the central 95 % of exponents over
        rounds drawn again with replacement: what the clock leaves in doubt.
    """
    x, costs = np.log(sizes), np.asarray(rounds, float)
    drawn = np.random.default_rng(seed).integers(0, len(costs), (RESAMPLES, len(costs)))
    low, high = np.quantile(_slope(x, np.log(np.median(costs[drawn], axis=1))), [0.025, 0.975])
    return {"exponent": float(_slope(x, np.log(np.median(costs, axis=0)))), "low": float(low), "high": float(high)}


def _slope(x, y):
    """Slope of y (…, n) against x (n,)."""
    return np.polyfit(x, np.atleast_2d(y).T, 1)[0].squeeze()
