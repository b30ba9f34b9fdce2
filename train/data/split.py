"""Data sets and their splits, and the rule by which images are held out of a split."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from train.data import store


@dataclass(frozen=True)
class Split:
    """Images ``(N, H, W, C)`` uint8, in memory or mapped from a file, and their labels ``(N,)`` int32."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Skipped:
    """An image that is not in the data set: its path (or its place in a prepared set), and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Dataset:
    """A training split, the split that is reported on, the classes by label, what could not be read, and how the second
    split came about where the data have none."""

    train: Split
    test: Split
    class_names: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    note: str = ""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def held_out(labels: np.ndarray, share: float | Fraction) -> np.ndarray:
    """Which images are set aside: every n-th of each class for a share of 1/n, and as evenly for any other.

    Stratified, and the same in every run, on every machine, with every version of a library. A class with fewer than
    ``1 / share`` images gives none.

    Args:
        labels: ``(N,)`` integers.
        share: in (0, 1).

    Returns:
        bool ``(N,)``.
    """
    # As a fraction: 0.29 * 100 is less than 29.
    share = Fraction(share).limit_denominator(10_000)
    aside = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        # The k-th image is taken when the count due after it, ⌊k·share⌋, exceeds the count due before it.
        due = np.arange(len(rows) + 1) * share.numerator // share.denominator
        aside[rows[np.diff(due) > 0]] = True
    return aside


def set_aside(share: float) -> str:
    """The note on a data set without a test part."""
    return f"no test part: a share of {share:g} of each class is set aside and called test (--validation-share)"


def hold_out(split: Split, share: float | Fraction) -> tuple[Split, Split]:
    """``(kept, set aside)`` by :func:`held_out`, both in their old order."""
    aside = held_out(split.labels, share)
    kept, taken = (Split(store.take(split.images, np.flatnonzero(x)), split.labels[x]) for x in (~aside, aside))
    return kept, taken
