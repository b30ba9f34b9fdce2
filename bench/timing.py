"""Interleaved measurement: in every round each contender has one turn, so that what slows the machine slows them all.

Contenders live in processes of their own (``worker.py``) that block on a pipe while the others work. In one process the
thread pools would meet: OpenMP's threads spin for milliseconds after PyTorch's last operation, on the cores that XLA's
threads then want; with waiting made passive instead, PyTorch would lose what it gains from spinning between its own
operations. Here each keeps its best setting, and a pause before every turn lets spinning end. OpenMP waits for every
thread at the end of every operation, so PyTorch suffers several times more from a busy machine than XLA does.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from bench.crew import Crew

BUDGET_S = 0.25
MOST_CALLS = 20
PAUSE_S = 0.05


def in_turns(measures: dict[str, Callable[[], Any]], rounds: int, on_round=lambda found: None) -> dict[str, list]:
    """What each measure finds in every round, in an order that is reversed every other round.

    A measure is a function that measures once; one that returns ``None`` is left out from then on. ``on_round`` is
    called after each round with its findings by label.
    """
    found: dict[str, list] = {label: [] for label in measures}
    for index in range(rounds):
        for label in list(found)[:: 1 if index % 2 == 0 else -1]:
            time.sleep(PAUSE_S)
            one = measures[label]()
            if one is None:
                del found[label]
            else:
                found[label].append(one)
        on_round({label: each[-1] for label, each in found.items()})
    return found


def interleave(crew: Crew, workers: dict[str, str], rounds: int, on_round=lambda found: None) -> dict[str, list]:
    """Seconds of every call, by round, of contenders that have been set up in the ``workers`` of these labels. One
    whose process dies is left out."""

    def turn(label: str) -> list[float] | None:
        return crew.ask(workers[label], "turn", name=label, budget_s=BUDGET_S, most=MOST_CALLS).get("times_s")

    return in_turns({label: partial(turn, label) for label in workers}, rounds, on_round)


def per_round(calls: list[list[float]]) -> list[float]:
    """One number a round: the median of its calls."""
    return [statistics.median(each) for each in calls]


def seconds_of(call: Callable[[], object], budget_s: float = 0.0, least: int = 1) -> float:
    """The median of as many calls as fit into the budget, ``least`` of them in any case."""
    times, began = [], time.perf_counter()
    while len(times) < least or time.perf_counter() - began < budget_s:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
