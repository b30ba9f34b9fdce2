"""Interleaved measurement: in every round each contender has one turn, so that what slows the machine slows them all.

Each contender lives in a process of its own (``worker.py``) that blocks on a pipe while the others work. In one process
the thread pools would meet: OpenMP's threads spin for milliseconds after PyTorch's last operation, on the cores that
XLA's threads then want; with waiting made passive instead, PyTorch would lose what it gains from spinning between its
own operations. Here each keeps its best setting, a pause before every turn lets spinning end, and the processor time
that a contender uses while it is not its turn is measured and reported (``idle_load``, in cores; it should be 0.00).
So is what everything else on the machine uses during its turns (``foreign_load``): OpenMP waits for every thread at the
end of every operation, so PyTorch suffers several times more from a busy machine than XLA does, and a ratio to it is
only as good as that figure is small.
"""

import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bench.crew import Crew

BUDGET_S = 0.25
MOST_CALLS = 20
PAUSE_S = 0.05


@dataclasses.dataclass
class Times:
    """Seconds of every call by round; cores' worth of work done while idle, and by others during the turns."""

    rounds: list[list[float]]
    idle_load: float = 0.0
    foreign_load: float = 0.0

    def per_round(self) -> list[float]:
        """One number a round: the median of its calls."""
        return [statistics.median(calls) for calls in self.rounds]


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Of two contenders' times, formed round by round: median and quartiles over the rounds, and each round's value."""

    median: float
    low: float
    high: float
    rounds: tuple[float, ...]


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Ratio:
    """Round i's ratio is numerator[i] / denominator[i]: measured seconds apart, under the same conditions.

    Raises:
        ValueError: no rounds, or not as many of one as of the other.
    """
    if len(numerator) != len(denominator) or len(numerator) == 0:
        raise ValueError(f"ratio: needs as many rounds of both, one at least; got {len(numerator)}, {len(denominator)}")
    values = np.asarray(numerator, float) / np.asarray(denominator, float)
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return Ratio(float(median), float(low), float(high), tuple(values.tolist()))


def interleave(crew: Crew, workers: dict[str, str], rounds: int, on_round=lambda done: None) -> dict[str, Times]:
    """Time contenders that have been set up. One whose process dies is left out from then on.

    Args:
        crew: the processes.
        workers: which process holds the contender of each label.
        rounds: turns for each, in an order that is reversed every other round.
        on_round: called after each round with the number of rounds done.
    """
    calls: dict[str, list[list[float]]] = {label: [] for label in workers}
    foreign_cpu, turn_wall = dict.fromkeys(workers, 0.0), dict.fromkeys(workers, 0.0)
    idle_cpu, idle_wall = dict.fromkeys(workers, 0.0), dict.fromkeys(workers, 0.0)
    last: dict[str, tuple[float, float]] = {}
    shared = len(set(workers.values())) < len(workers)
    for index in range(rounds):
        for label in list(calls)[:: 1 if index % 2 == 0 else -1]:
            time.sleep(PAUSE_S)
            start, busy = time.monotonic(), _busy_seconds()
            reply = crew.ask(workers[label], "turn", label=label, budget_s=BUDGET_S, most=MOST_CALLS)
            if "unavailable" in reply:
                del calls[label]
                continue
            calls[label].append(reply["times_s"])
            own = reply["cpu_after_s"] - reply["cpu_before_s"]
            foreign_cpu[label] += max(_busy_seconds() - busy - own, 0.0)
            turn_wall[label] += time.monotonic() - start
            if label in last and not shared:
                cpu, wall = last[label]
                idle_cpu[label] += reply["cpu_before_s"] - cpu
                idle_wall[label] += start - wall
            last[label] = reply["cpu_after_s"], time.monotonic()
        on_round(index + 1)
    return {
        label: Times(
            rounds,
            idle_load=idle_cpu[label] / idle_wall[label] if idle_wall[label] else 0.0,
            foreign_load=foreign_cpu[label] / turn_wall[label] if turn_wall[label] else 0.0,
        )
        for label, rounds in calls.items()
    }


def in_turns(
    measures: dict[str, Callable[[], float]], rounds: int, on_round=lambda found: None
) -> dict[str, list[float]]:
    """A figure of each measure in every round, in an order that is reversed every other round. All in this process.

    Args:
        measures: label -> a function that measures once.
        rounds: turns for each.
        on_round: called after each round with its figures by label.
    """
    found: dict[str, list[float]] = {label: [] for label in measures}
    for index in range(rounds):
        for label in list(measures)[:: 1 if index % 2 == 0 else -1]:
            time.sleep(PAUSE_S)
            found[label].append(measures[label]())
        on_round({label: figures[-1] for label, figures in found.items()})
    return found


def seconds_of(call: Callable[[], object], budget_s: float = 0.0, least: int = 1) -> float:
    """The median of as many calls as fit into the budget, ``least`` of them in any case."""
    times, began = [], time.perf_counter()
    while len(times) < least or time.perf_counter() - began < budget_s:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _busy_seconds() -> float:
    """Processor time used by everything on the machine since it started; resolution 10 ms."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _, _, irq, softirq, *_ = map(int, fields)
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
