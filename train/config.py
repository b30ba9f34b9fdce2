"""What a run is: one frozen dataclass, its defaults by data set, the checks on its values, and what a resumed run may
change."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import puppet_jax as pj
from puppet_jax._model import PUPPETEERS
from puppet_jax._named_function import is_function_name
from train.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The defaults that depend on the data set. Chosen on a validation part of the training set."""

    preset: str | None
    epochs: int
    batch_size: int
    optimiser: str
    learning_rate: float
    augment: str


RECIPES: dict[str, Recipe] = {
    "digits": Recipe(
        preset="puppet_xs", epochs=30, batch_size=32, optimiser="adamw", learning_rate=5e-3, augment="crop"
    ),
    # Chosen on CIFAR-10, in short runs (bench/studies).
    "others": Recipe(preset="puppet_s", epochs=10, batch_size=64, optimiser="muon", learning_rate=2e-2, augment="flip"),
}

OPTIMISERS = ("adamw", "muon")

AUGMENTATIONS = ("none", "flip", "crop", "flip-crop", "flip-crop-cutout")

CONNECTION = ("distributed", "coordinator", "process_id", "process_count")
"""How processes find each other: given with each command, never taken from the run that is resumed."""

FREE = ("data", "data_dir", "out", "overwrite", "resume", "keep", "checkpoint_steps", "devices", *CONNECTION)
"""What may differ when a run is resumed, as it does not change the numbers (``devices`` changes their rounding). Data
are known by their content, not by where they lie (:func:`train.runs.resume.check_data`)."""

OF_MODEL = (
    *("preset", "model", "batch_norm", "compression", "width", "puppeteer", "puppeteer_options", "dtype"),
    *("bin", "measurement"),
)
"""What a model is made from: what ``--start-from`` takes over from the model that it names."""


def _by_data(field: str, text: str, metavar: str) -> Any:
    """The help of a field whose default a recipe sets, with the defaults that the table has."""
    defaults = ", ".join(f"{name} {getattr(recipe, field)}" for name, recipe in RECIPES.items())
    return tyro.conf.arg(help=f"{text} (default by data set: {defaults})", help_behavior_hint="", metavar=metavar)


def _optional(metavar: str) -> Any:
    """A field that is absent by default; its help says what that means."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


@dataclass(frozen=True)
class Config:
    """Train a Puppet-CNN and leave its parameters, metrics and figures in a folder.

    A field that is ``None`` because its default depends on the data set is filled in by :func:`resolve`.
    """

    data: str = "digits"
    """What to train on: digits (scikit-learn's, 8x8 grey, nothing to download), an image classification set of
    TensorFlow Datasets by its name (cifar10, cifar100, mnist, ...), or a folder of class folders of images."""
    data_dir: Annotated[Path | None, _optional("DIR")] = None
    """Where TensorFlow Datasets keeps prepared sets (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets)."""
    image_size: Annotated[int | None, _optional("INT")] = None
    """Side in pixels that the images of a folder are brought to (default: as the data set says)."""
    preset: Annotated[str | None, _by_data("preset", f"The puppet: one of {', '.join(pj.PRESETS)}.", "NAME")] = None
    model: Annotated[str | None, _optional("MODULE:FUNCTION")] = None
    """Your own CNN instead of a preset: a function that can be imported from here, which makes a Flax NNX module,
    function(num_classes=..., in_channels=..., rngs=...). Its puppet is trained: see puppet_jax.puppetize."""
    batch_norm: Annotated[Literal["group", "running"] | None, _optional("{group,running}")] = None
    """With --model, what takes the place of nnx.BatchNorm: normalisation over groups of channels of one image, for
    training, or the running averages as they are."""
    compression: Annotated[float | None, _optional("FLOAT")] = None
    """How many times fewer parameters generate the kernels than the kernels have, instead of sizes given by hand
    (default: with --model as puppet_jax.puppetize says, else as the preset does)."""
    start_from: Annotated[str | None, _optional("RUN|NAME|FILE")] = None
    """Fine-tune: begin with the parameters of a run, of a pretrained model by its name, or of a released file, and
    with its kind of model. For another number of classes the head is drawn anew."""
    teacher: Annotated[str | None, _optional("RUN|NAME|FILE")] = None
    """Distil: learn nine tenths from the probabilities that a trained model gives the same augmented images, and a
    tenth from the labels."""
    width: Annotated[int | None, _optional("INT")] = None
    """Channels of every layer, in stages of the first, the others in proportion (default: as the preset says)."""
    puppeteer: Annotated[str, tyro.conf.arg(metavar=f"{'|'.join(PUPPETEERS)}|MODULE:FUNCTION")] = "continuous"
    """Where the kernels come from. continuous: a function of position and depth, the recommended one. ode: the
    differential equation with a learned start and standardised kernels. printed: the equation exactly as the
    paper prints it. stored: a kernel for each layer, the static twin to compare with. Or your own: a function that can
    be imported from here and makes a puppeteer, function(kernel_shapes, rngs=..., **options)."""
    puppeteer_options: Annotated[str, tyro.conf.arg(metavar="JSON")] = "{}"
    """Further options of the puppeteer, a JSON object, for example '{"basis": 32}'."""
    measurement: Annotated[str, tyro.conf.arg(metavar="JSON")] = "{}"
    """What complexity is and what follows it, a JSON object of puppet_jax.Measure's fields, for example
    '{"pixel_weight": 1}' or '{"depth": "full"}'."""
    bin: Annotated[float | None, tyro.conf.arg(metavar="FLOAT|None")] = 0.25
    """Measure complexity to bins of this many bits, so that all images of a bin share kernels and depth. None: the
    paper's continuous complexity, kernels generated for every image, which is slower."""
    epochs: Annotated[int | None, _by_data("epochs", "Passes over the training images.", "INT")] = None
    max_steps: Annotated[int | None, _optional("INT")] = None
    """Stop after so many optimiser steps, the decay ending there too; for smoke tests (default: no limit)."""
    batch_size: Annotated[int | None, _by_data("batch_size", "Images in an optimiser step.", "INT")] = None
    optimiser: Annotated[
        str | None,
        _by_data(
            "optimiser",
            "adamw, or muon: the matrices that kernels are made of get orthogonal updates, the rest what AdamW gives.",
            f"{{{','.join(OPTIMISERS)}}}",
        ),
    ] = None
    learning_rate: Annotated[
        float | None, _by_data("learning_rate", "Peak learning rate, reached after the warm-up.", "FLOAT")
    ] = None
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """What the learning rate does after the warm-up: fall to 0 as a cosine or linearly, or stay."""
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises linearly from 0. In [0, 1)."""
    weight_decay: float = 0.01
    """Decoupled weight decay, on matrices and kernels only: biases and normalisation are spared."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm where they exceed it."""
    ema: float = 0.0
    """Decay of an exponential moving average of the parameters, in [0, 1), which is then what is evaluated and saved;
    0.999 averages over about the last 1,000 steps. 0: none, the parameters themselves."""
    accumulate: int = 1
    """Send each batch through in so many parts and add their gradients up: the same step with less memory."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over the classes, in [0, 1). The test loss never has it."""
    augment: Annotated[
        str | None,
        _by_data(
            "augment",
            "Random changes to training images: flip mirrors half of them, crop pads by an eighth of the side and "
            "crops back (4 pixels on CIFAR-10, 1 on digits), flip-crop does both, flip-crop-cutout also blanks a "
            "square in each.",
            f"{{{','.join(AUGMENTATIONS)}}}",
        ),
    ] = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation. Parameters stay float32."""
    evaluate_on: Literal["test", "validation"] = "test"
    """What accuracy is reported on. validation: a share of the training images, then not trained on; to choose a
    recipe without looking at the test images."""
    validation_share: float = 0.1
    """Share of the training images that --evaluate-on validation sets aside; a folder without a test part of its own
    is divided so too. In (0, 1)."""
    seed: int = 0
    """Fixes initial parameters, order of images and augmentation: same seed, same numbers on the same machine."""
    out: Annotated[Path | None, _optional("DIR")] = None
    """Folder of the run (default: runs/DATA-PRESET-PUPPETEER-seedSEED-TIME)."""
    overwrite: bool = False
    """Replace the run that --out already holds."""
    resume: Annotated[Path | None, _optional("RUN")] = None
    """Continue the run in this folder from its last good checkpoint, to the same numbers as if it had not been
    interrupted. Its configuration is taken; flags that contradict it are refused."""
    keep: int = 3
    """How many of the last checkpoints to keep; the one with the best accuracy is kept besides."""
    checkpoint_steps: Annotated[int | None, _optional("INT")] = None
    """Save a checkpoint every so many steps, and at the end (default: at the end of an epoch unless the last one is
    less than 5 seconds old, and within an epoch once a minute)."""
    devices: Annotated[int | None, _optional("INT")] = None
    """How many of the local devices share a batch, each computing its part (default: all)."""
    distributed: bool = False
    """Train in several processes that find each other through the cluster's environment (Slurm, MPI, Cloud TPU, ...).
    Each feeds its part of the batch; the first writes the run's folder."""
    coordinator: Annotated[str | None, _optional("HOST:PORT")] = None
    """Where the first of several processes listens, outside such a cluster; with --process-id and --process-count."""
    process_id: Annotated[int | None, _optional("INT")] = None
    """Which of the processes this one is, from 0."""
    process_count: Annotated[int | None, _optional("INT")] = None
    """How many processes there are."""


@dataclass(frozen=True)
class ResolvedConfig(Recipe, Config):
    """A configuration in which no field of a recipe is ``None``, but for ``preset`` where ``model`` is given."""

    @property
    def net(self) -> str:
        """What the puppet is called: its preset, or the function that makes it."""
        return self.model or self.preset or ""

    @property
    def data_name(self) -> str:
        """What the data are called, without the path of a folder."""
        return Path(self.data).name if Path(self.data).is_absolute() else self.data


def resolve(config: Config) -> ResolvedConfig:
    """Fill in what depends on the data set and check every value.

    Raises:
        UserError: a value is out of range; names the flag, what was got and what is expected.
    """
    recipe = RECIPES.get(config.data, RECIPES["others"])
    missing = {name: value for name, value in vars(recipe).items() if getattr(config, name) is None}
    if config.model is not None:
        missing["preset"] = config.preset
    config = ResolvedConfig(**vars(config) | missing)

    def expect(field: str, ok: bool, expected: str) -> None:
        if not ok:
            flag = "--" + field.replace("_", "-")
            raise UserError(f"{flag}: got {getattr(config, field)!r}, expected {expected}")

    def at_least_1(field: str) -> None:
        value = getattr(config, field)
        expect(field, value is None or value >= 1, "at least 1")

    for field in ("epochs", "max_steps", "width", "batch_size", "image_size", "accumulate", "keep"):
        at_least_1(field)
    for field in ("checkpoint_steps", "devices", "process_count"):
        at_least_1(field)
    if config.model is None:
        expect("preset", config.preset in pj.PRESETS, f"one of {', '.join(pj.PRESETS)}")
        expect("batch_norm", config.batch_norm is None, "none without --model: presets have no nnx.BatchNorm")
    else:
        expect("model", is_function_name(config.model), "MODULE:FUNCTION, for example my_package.nets:resnet20")
        expect("preset", config.preset is None, "none with --model, which takes a preset's place")
        expect("width", config.width is None, "none with --model, whose layers have widths of their own")
        expect("dtype", config.dtype == "float32", "float32 with --model, whose layers have types of their own")
    known = config.puppeteer in PUPPETEERS or is_function_name(config.puppeteer)
    expect("puppeteer", known, f"one of {', '.join(PUPPETEERS)}, or MODULE:FUNCTION, such as my_package.kernels:make")
    expect("compression", config.compression is None or config.compression > 0, "a number above 0")
    expect("bin", config.bin is None or 0 < config.bin <= 8, "above 0 and at most 8 bits, or None")
    expect("learning_rate", 0 < config.learning_rate < math.inf, "a number above 0")
    expect("warmup", 0 <= config.warmup < 1, "a share in [0, 1)")
    expect("weight_decay", 0 <= config.weight_decay < math.inf, "0 or a number above it")
    expect("clip_norm", 0 < config.clip_norm < math.inf, "a number above 0")
    expect("ema", 0 <= config.ema < 1, "a decay in [0, 1)")
    expect("label_smoothing", 0 <= config.label_smoothing < 1, "a share in [0, 1)")
    expect("optimiser", config.optimiser in OPTIMISERS, f"one of {', '.join(OPTIMISERS)}")
    expect("augment", config.augment in AUGMENTATIONS, f"one of {', '.join(AUGMENTATIONS)}")
    expect("validation_share", 0 < config.validation_share < 1, "a share in (0, 1)")
    expect("seed", 0 <= config.seed < 2**32, "a whole number from 0 to 2**32 - 1")
    expect("puppeteer_options", _is_json_object(config.puppeteer_options), """a JSON object such as '{"basis": 32}'""")
    expect("measurement", _is_json_object(config.measurement), """a JSON object such as '{"pixel_weight": 1}'""")
    expect("resume", config.resume is None or not (config.out or config.overwrite), "no --out or --overwrite with it")
    return config


def to_json(config: Config) -> dict[str, Any]:
    """The configuration as plain JSON values."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(config).items()}


def recipe_of(config: ResolvedConfig) -> dict[str, Any]:
    """What decides a run's numbers, as plain JSON values without a path; what is ``None`` is left out."""
    values = {name: value for name, value in to_json(config).items() if name not in FREE and value is not None}
    named = {name: Path(values[name]).name for name in ("start_from", "teacher") if name in values}
    return values | named | {"data": config.data_name}


def from_json(values: dict[str, Any]) -> ResolvedConfig:
    """The configuration of :func:`to_json`; a field that an older version did not have gets its default.

    Raises:
        TypeError: a field that this version does not have.
    """
    if "nodes" in values:
        raise TypeError("it is a run of puppet-jax 0.1.0, which interpolated kernels; use that version, or train again")
    config = ResolvedConfig(**values)
    paths: dict[str, Any] = {
        name: Path(value) for name in ("data_dir", "out", "resume") if (value := getattr(config, name))
    }
    return dataclasses.replace(config, **paths)


def contradictions(ran: ResolvedConfig, asked: ResolvedConfig) -> list[str]:
    """The fields of a resolved configuration that would change a run's numbers, each with both values."""
    return [
        f"--{name.replace('_', '-')} is {value!r} in the run, got {getattr(asked, name)!r}"
        for name, value in vars(ran).items()
        if name not in FREE and value != getattr(asked, name)
    ]


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except json.JSONDecodeError:
        return False
