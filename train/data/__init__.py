"""Data sets: where they come from, images decoded once into arrays, and the batches of a training run.

Nothing heavier than NumPy is imported before it is needed.
"""

from train.data.pipeline import padded_batches, steps_per_epoch, train_batches
from train.data.sets import load, located
from train.data.split import Dataset, Skipped, Split, class_weights, differences, fingerprint, hold_out

__all__ = [
    "Dataset",
    "Skipped",
    "Split",
    "class_weights",
    "differences",
    "fingerprint",
    "hold_out",
    "load",
    "located",
    "padded_batches",
    "steps_per_epoch",
    "train_batches",
]
