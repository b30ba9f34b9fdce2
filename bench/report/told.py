"""What the README's regions share: a file's words or why there are none, links, accuracies and how they compare."""

from collections.abc import Callable

from bench.report.results import Results, Unreadable
from bench.report.words import Language, percent

DOUBT = 0.02
"""Two runs of one seed each that differ by no more than this tell nothing."""
STUDY = "accuracy_cifar10.json"


def tell(results: Results, name: str, render: Callable[[dict, Language], str]) -> str:
    """What ``render`` makes of a file; in words if it cannot be read."""
    try:
        return results.told(name, render)
    except Unreadable as problem:
        return results.say("Not measured: {problem}.", problem=problem)


def link(name: str) -> str:
    """A result file, from the root of the repository."""
    return f"[{name}](bench/results/{name})"


def accuracy(line: dict, say: Language) -> str:
    """A mean with its least and greatest over seeds; one run's as it is."""
    mean, low, high = (percent(line[key]) for key in ("accuracy", "least", "greatest"))
    return mean if len(line["seeds"]) == 1 else say("{middle} ({low} to {high})", middle=mean, low=low, high=high)


def seeds(line: dict, say: Language) -> str:
    count = len(line["seeds"])
    return say("one seed") if count == 1 else say("{n} seeds", n=count)


def points(difference: float) -> str:
    """A difference of shares, in points, with its sign."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def clear(one: dict, other: dict) -> int | None:
    """1: every seed of one above every seed of the other; -1: below; 0: neither; ``None``: less than two seeds."""
    if min(len(one["seeds"]), len(other["seeds"])) < 2:
        return None
    return int(one["least"] > other["greatest"]) - int(one["greatest"] < other["least"])


def told_apart(one: dict, other: dict) -> bool:
    """Whether seeds tell the two apart; where there are too few, whether they differ by more than ``DOUBT``."""
    found = clear(one, other)
    return abs(one["accuracy"] - other["accuracy"]) > DOUBT if found is None else found != 0


def verdict(one: dict, other: dict, say: Language) -> str:
    """Whether seeds tell the first from the second."""
    better, few = one["accuracy"] > other["accuracy"], clear(one, other) is None
    if not told_apart(one, other):
        return say("no difference that one seed can show") if few else say("no difference beyond the spread of seeds")
    if few:
        return say("better, one seed") if better else say("worse, one seed")
    return say("better, every seed") if better else say("worse, every seed")
