"""What a run is: one frozen dataclass, its defaults by data set, and the checks on its values."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import puppet_jax as pj
from train.errors import UserError

Data = Literal["digits", "cifar10"]
Puppeteer = Literal["continuous", "ode", "printed", "stored"]


@dataclass(frozen=True)
class Recipe:
    """The defaults that depend on the data set. Chosen on a validation part of the training set."""

    preset: str
    epochs: int
    batch_size: int
    learning_rate: float
    augment: str


RECIPES: dict[str, Recipe] = {
    "digits": Recipe(preset="puppet_xs", epochs=30, batch_size=32, learning_rate=5e-3, augment="crop"),
    "cifar10": Recipe(preset="puppet_s", epochs=10, batch_size=32, learning_rate=2e-3, augment="flip-crop"),
}


def _by_data(field: str, text: str, metavar: str) -> Any:
    """The help of a field whose default a recipe sets: the defaults are read from the table, so cannot differ."""
    defaults = ", ".join(f"{name} {getattr(recipe, field)}" for name, recipe in RECIPES.items())
    return tyro.conf.arg(help=f"{text} (default by data set: {defaults})", help_behavior_hint="", metavar=metavar)


@dataclass(frozen=True)
class Config:
    """Train a Puppet-CNN and leave its parameters, metrics and figures in a folder.

    A field that is ``None`` because its default depends on the data set is filled in by :func:`resolve`.
    """

    data: Data = "digits"
    """What to train on: scikit-learn's digits (8x8 grey, nothing to download), or CIFAR-10 from TensorFlow
    Datasets."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Where TensorFlow Datasets keeps prepared sets (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets)."""
    preset: Annotated[str | None, _by_data("preset", f"The puppet: one of {', '.join(pj.PRESETS)}.", "NAME")] = None
    puppeteer: Puppeteer = "continuous"
    """Where the kernels come from. continuous: a function of position and depth, the recommended one. ode: the
    differential equation with a learned start and standardised kernels. printed: the equation exactly as the
    paper prints it. stored: a kernel for each layer, the static twin to compare with."""
    puppeteer_options: Annotated[str, tyro.conf.arg(metavar="JSON")] = "{}"
    """Further options of the puppeteer, a JSON object, for example '{"basis": 32}'."""
    nodes: int = 12
    """Generate kernels at this many complexities per step and interpolate to each image's (12 suit most models),
    instead of for every image. 0: for every image, exactly. Evaluation is always exact."""
    epochs: Annotated[int | None, _by_data("epochs", "Passes over the training images.", "INT")] = None
    max_steps: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Stop after so many optimiser steps, the decay ending there too; for smoke tests (default: no limit)."""
    batch_size: Annotated[int | None, _by_data("batch_size", "Images in an optimiser step.", "INT")] = None
    learning_rate: Annotated[
        float | None, _by_data("learning_rate", "Peak learning rate of AdamW, reached after the warm-up.", "FLOAT")
    ] = None
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises linearly from 0; a cosine to 0 follows. In [0, 1)."""
    weight_decay: float = 0.01
    """Decoupled weight decay, on matrices and kernels only: biases, normalisation and frequencies are spared."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm where they exceed it."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over the classes, in [0, 1). The test loss never has it."""
    augment: Annotated[
        str | None,
        _by_data(
            "augment",
            "Random changes to training images: crop pads by an eighth of the side and crops back "
            "(4 pixels on CIFAR-10, 1 on digits), flip-crop also mirrors half of them.",
            "{none,crop,flip-crop}",
        ),
    ] = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation. Parameters stay float32."""
    evaluate_on: Literal["test", "validation"] = "test"
    """What accuracy is reported on. validation: a tenth of the training images, then not trained on; to choose a
    recipe without looking at the test images."""
    seed: int = 0
    """Fixes initial parameters, order of images and augmentation: same seed, same numbers on the same machine."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder of the run (default: runs/DATA-PRESET-PUPPETEER-seedSEED-TIME)."""
    overwrite: bool = False
    """Replace the run that --out already holds."""


def resolve(config: Config) -> Config:
    """Fill in what depends on the data set and check every value.

    Returns:
        a Config in which only ``data_dir``, ``max_steps`` and ``out`` may still be ``None``.

    Raises:
        UserError: a value is out of range; names the flag, what was got and what is expected.
    """
    recipe = RECIPES[config.data]
    missing = {name: value for name, value in vars(recipe).items() if getattr(config, name) is None}
    config = dataclasses.replace(config, **missing)

    def expect(field: str, ok: bool, expected: str) -> None:
        if not ok:
            flag = "--" + field.replace("_", "-")
            raise UserError(f"{flag}: got {getattr(config, field)!r}, expected {expected}")

    expect("preset", config.preset in pj.PRESETS, f"one of {', '.join(pj.PRESETS)}")
    expect("nodes", config.nodes >= 0, "0, or at least 1 node")
    expect("epochs", config.epochs >= 1, "at least 1")
    expect("max_steps", config.max_steps is None or config.max_steps >= 1, "at least 1, or no such flag")
    expect("batch_size", config.batch_size >= 1, "at least 1")
    expect("learning_rate", 0 < config.learning_rate < math.inf, "a number above 0")
    expect("warmup", 0 <= config.warmup < 1, "a share in [0, 1)")
    expect("weight_decay", 0 <= config.weight_decay < math.inf, "0 or a number above it")
    expect("clip_norm", 0 < config.clip_norm < math.inf, "a number above 0")
    expect("label_smoothing", 0 <= config.label_smoothing < 1, "a share in [0, 1)")
    expect("augment", config.augment in ("none", "crop", "flip-crop"), "none, crop or flip-crop")
    expect("seed", 0 <= config.seed < 2**32, "a whole number from 0 to 2**32 - 1")
    expect("puppeteer_options", _is_json_object(config.puppeteer_options), """a JSON object such as '{"basis": 32}'""")
    return config


def to_json(config: Config) -> dict[str, Any]:
    """The configuration as plain JSON values."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(config).items()}


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except json.JSONDecodeError:
        return False
