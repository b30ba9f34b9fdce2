"""What a run is: its settings in groups, their defaults by data set, the checks on their values, the command line, and
what a resumed run may change."""

import dataclasses
import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import docstring_parser
import msgspec
import tyro

from train.errors import UserError
from train.runs.reading import read_json
from train.terminal import printable

_BY_DATA = ("preset", "epochs", "batch_size", "optimiser", "learning_rate", "augment")
DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": dict(zip(_BY_DATA, ("puppet_xs", 30, 32, "adamw", 0.005, "crop"), strict=True)),
    # Chosen on CIFAR-10, in short runs (bench/studies).
    "others": dict(zip(_BY_DATA, ("puppet_s", 10, 64, "muon", 0.02, "flip"), strict=True)),
    # Chosen on 81 images of three shapes in random colours. Flat ones are of little complexity, and few layers see no
    # shape: of 300 others 72 % were right by depth as complexity says, 97 % with all layers.
    "small": dict(zip(_BY_DATA, ("puppet_s", "24,000/images", 16, "muon", 0.02, "strong"), strict=True)),
}
"""What depends on the data set: chosen on a validation part of the training images."""

SMALL, SEEN = 2_000, 24_000
"""A set of fewer training images is small, and is seen in as many epochs as make so many images."""

# The names of puppet_jax.PRESETS and of its puppeteers: importing those would take seconds, and a test compares them.
Preset = Literal["puppet_xs", "puppet_s", "puppet_m", "puppet_e", "puppet_vgg_s", "puppet_resnet_s"]
PUPPETEERS = ("continuous", "ode", "printed", "stored")
Optimiser = Literal["adamw", "muon"]
Augmentation = Literal["none", "flip", "crop", "flip-crop", "strong"]


def _by_data(field: str, text: str, choices: Any = None) -> Any:
    """The help of a field whose default depends on the data set, with all its defaults."""
    values = [f"{name} {each[field]}" for name, each in DEFAULTS.items()]
    metavar = f"{{{','.join(get_args(choices))}}}" if choices else type(DEFAULTS["others"][field]).__name__.upper()
    return tyro.conf.arg(help=f"{text} (default: {', '.join(values)})", help_behavior_hint="", metavar=metavar)


def shown(metavar: str) -> Any:
    """The help of an argument without a default, or with one that its text explains."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


@dataclass(frozen=True)
class Data:
    """What to train on."""

    data: str = "digits"
    """digits (scikit-learn's, 8x8 grey, nothing to download), an image classification set of TensorFlow Datasets by its
    name (cifar10, cifar100, mnist, ...; prepared in $TFDS_DATA_DIR, else ~/tensorflow_datasets), or a folder of class
    folders of images."""
    image_size: Annotated[int | None, shown("INT")] = None
    """Side in pixels that images are brought to (default: 32 if they are of several sizes or larger than 64)."""
    evaluate_on: Literal["test", "validation"] = "test"
    """What accuracy is reported on. validation: a tenth of the training images, then not trained on; to choose a
    recipe without looking at the test images."""


@dataclass(frozen=True)
class Model:
    """The puppet, and where its kernels come from."""

    preset: Annotated[Preset | None, _by_data("preset", "The puppet.", Preset)] = None
    model: Annotated[str | None, shown("MODULE:FUNCTION")] = None
    """Your own CNN instead of a preset: a function that can be imported from here, which makes a Flax NNX module,
    function(num_classes=..., in_channels=..., rngs=...). Its puppet is trained: see puppet_jax.puppetize."""
    batch_norm: Annotated[Literal["group", "running"] | None, shown("{group,running}")] = None
    """With --model, what takes the place of nnx.BatchNorm: normalisation over groups of channels of one image, for
    training, or the running averages as they are."""
    compression: Annotated[float | None, shown("FLOAT")] = None
    """How many times fewer parameters generate the kernels than the kernels have, instead of sizes given by hand
    (default: with --model as puppet_jax.puppetize says, else as the preset does)."""
    width: Annotated[int | None, shown("INT")] = None
    """Channels of every layer, in stages of the first, the others in proportion (default: as the preset says)."""
    exits: Annotated[str | None, shown("D,D,…")] = None
    """Depths that an image may leave at, such as 3,5: training puts a loss on each of them, so that one file serves
    several budgets; none: no exits (default: as the preset says)."""
    puppeteer: Annotated[str, tyro.conf.arg(metavar=f"{'|'.join(PUPPETEERS)}|MODULE:FUNCTION")] = "continuous"
    """Where the kernels come from. continuous: a function of position and depth, the recommended one. ode: the
    differential equation with a learned start and standardised kernels. printed: the equation exactly as the
    paper prints it. stored: a kernel for each layer, the static twin to compare with. Or your own: a function that can
    be imported from here and makes a puppeteer, function(kernel_shapes, rngs=..., **options)."""
    puppeteer_options: Annotated[str, tyro.conf.arg(metavar="JSON")] = "{}"
    """Further options of the puppeteer, a JSON object, for example '{"basis": 32}'."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation. Parameters stay float32."""


@dataclass(frozen=True)
class Measurement:
    """What complexity is, and what follows it: see puppet_jax.Measure."""

    bin: Annotated[float | None, tyro.conf.arg(metavar="FLOAT|None")] = 0.25
    """Measure complexity to bins of this many bits, so that all images of a bin share kernels and depth. None: the
    paper's continuous complexity, kernels generated for every image, which is slower."""
    depth: Annotated[Literal["complexity", "full"] | int | None, shown("complexity|full|INT")] = None
    """How many layers an image goes through: as many as its complexity says, all, or so many more than it says
    (default: as the preset does; all of a small data set)."""
    function: Annotated[str | None, shown("MODULE:FUNCTION")] = None
    """A measure of your own: a function that can be imported from here, from images to complexity in [0, 8]."""


@dataclass(frozen=True)
class Recipe:
    """How to train it. The learning rate rises for a tenth of the steps, then falls to 0 as a cosine."""

    epochs: Annotated[int | None, _by_data("epochs", "Passes over the training images.")] = None
    max_steps: Annotated[int | None, shown("INT")] = None
    """Stop after so many optimiser steps, the decay ending there too; for smoke tests (default: no limit)."""
    batch_size: Annotated[int | None, _by_data("batch_size", "Images in an optimiser step.")] = None
    optimiser: Annotated[
        Optimiser | None,
        _by_data(
            "optimiser",
            "adamw, or muon: the matrices that kernels are made of get orthogonal updates, the rest what AdamW gives.",
            Optimiser,
        ),
    ] = None
    learning_rate: Annotated[float | None, _by_data("learning_rate", "Peak learning rate.")] = None
    weight_decay: float = 0.01
    """Decoupled weight decay, on matrices and kernels only: biases and normalisation are spared."""
    ema: float = 0.0
    """Decay of an exponential moving average of the parameters, in [0, 1), which is then what is evaluated and saved;
    0.999 averages over about the last 1,000 steps. 0: none, the parameters themselves."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over the classes, in [0, 1). The test loss never has it."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: in the loss that is trained on, classes count alike, however many images each has."""
    augment: Annotated[
        Augmentation | None,
        _by_data(
            "augment",
            "Random changes to training images: flip mirrors half of them, crop pads by an eighth of the side and "
            "crops back, flip-crop does both, strong turns, scales, moves and recolours them.",
            Augmentation,
        ),
    ] = None
    start_from: Annotated[str | None, shown("RUN|NAME|FILE")] = None
    """Fine-tune: begin with the parameters of a run, of a pretrained model by its name, or of a released file, and
    with its kind of model. For other classes the head is drawn anew."""
    teacher: Annotated[str | None, shown("RUN|NAME|FILE")] = None
    """Distil: learn nine tenths from the probabilities that a trained model gives the same augmented images, and a
    tenth from the labels."""
    seed: int = 0
    """Fixes initial parameters, order of images and augmentation: same seed, same numbers on the same machine."""


@dataclass(frozen=True)
class Run:
    """Where it is written, and going on with it."""

    out: Annotated[Path | None, shown("DIR")] = None
    """Folder of the run (default: runs/DATA-PRESET-PUPPETEER-seedSEED-TIME)."""
    config: Annotated[Path | None, shown("FILE")] = None
    """Take the settings in a file, as config.json of a run has them, but for where that run is written. Flags stand
    over it."""
    resume: Annotated[Path | None, shown("RUN")] = None
    """Continue the run in this folder from its last good checkpoint, to the same numbers as if it had not been
    interrupted. Its configuration is taken; flags that contradict it are refused."""
    checkpoint_steps: Annotated[int | None, shown("INT")] = None
    """Save a checkpoint every so many steps, and at the end (default: at the end of an epoch unless the last one is
    less than 5 seconds old, and within an epoch once a minute)."""


@dataclass(frozen=True)
class Cluster:
    """On how many devices."""

    devices: Annotated[int | None, shown("INT")] = None
    """How many of the local devices share a batch, each computing its part (default: all)."""
    distributed: bool = False
    """Train in several processes, each on its part of the batch; the first writes the run's folder. They find each
    other through a cluster that JAX detects (Slurm, MPI, Cloud TPU, ...), else by JAX_COORDINATOR_ADDRESS=HOST:PORT,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID."""


@dataclass(frozen=True)
class Config(Cluster, Run, Recipe, Model, Data):
    """All settings. A field that is ``None`` because its default depends on the data set is filled in by
    :func:`resolve`."""

    measurement: Measurement = Measurement()


@dataclass(frozen=True)
class Train:
    """Train a Puppet-CNN and leave its parameters, metrics and figures in a folder."""

    data: Annotated[Data, tyro.conf.OmitArgPrefixes] = Data()
    model: Annotated[Model, tyro.conf.OmitArgPrefixes] = Model()
    measurement: Measurement = Measurement()
    recipe: Annotated[Recipe, tyro.conf.OmitArgPrefixes] = Recipe()
    run: Annotated[Run, tyro.conf.OmitArgPrefixes] = Run()
    cluster: Annotated[Cluster, tyro.conf.OmitArgPrefixes] = Cluster()


@functools.cache
def in_paragraphs(options: type) -> None:
    """Make the text of each option of a command, or of a group, one paragraph: tyro would keep the source's lines."""
    for each in docstring_parser.parse_from_object(options).params:
        text = tyro.conf.arg(help=" ".join((each.description or "").split()))
        options.__annotations__[each.arg_name] = Annotated[options.__annotations__[each.arg_name], text]


for _group in (Data, Model, Measurement, Recipe, Run, Cluster):
    in_paragraphs(_group)


def _names(*groups: type) -> tuple[str, ...]:
    return tuple(field.name for group in groups for field in fields(group))


FREE = ("data", *_names(Run, Cluster))
"""What may differ when a run is resumed, as it does not change the numbers (``devices`` changes their rounding). Data
are known by their content, not by where they lie (:func:`train.data.fingerprint`)."""

PLACE = ("out", "resume", "config")
"""Where a run is written."""

OF_MODEL = (*_names(Model), "measurement")
"""What a model is made from: what ``--start-from`` takes over from the model that it names."""


@dataclass(frozen=True, kw_only=True)
class ResolvedConfig(Config):
    """A configuration without ``None`` where the default depends on the data set, but ``preset`` beside ``model``."""

    epochs: int
    batch_size: int
    optimiser: Optimiser
    learning_rate: float
    augment: Augmentation

    @property
    def exit_depths(self) -> list[int] | None:
        """The depths of ``exits``, ``[]`` for none; ``None``: as the preset says."""
        if self.exits is None:
            return None
        return [] if self.exits == "none" else [int(each) for each in self.exits.split(",")]

    @property
    def net(self) -> str:
        """What the puppet is called: its preset, or the function that makes it."""
        return self.model or self.preset or ""

    @property
    def data_name(self) -> str:
        """What the data are called, without the path of a folder."""
        return Path(self.data).name if Path(self.data).is_absolute() else self.data


def parse(arguments: Sequence[str], default: Config) -> Config:
    """The configuration of a command line, whose flags stand over ``default``."""
    kinds = {"data": Data, "model": Model, "recipe": Recipe, "run": Run, "cluster": Cluster}
    groups: dict[str, Any] = {
        name: kind(**{field: getattr(default, field) for field in _names(kind)}) for name, kind in kinds.items()
    }
    found = tyro.cli(
        Train,
        prog="python -m train",
        args=arguments,
        default=Train(**groups, measurement=default.measurement),
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    values = {name: value for group in kinds for name, value in vars(getattr(found, group)).items()}
    return Config(**values, measurement=found.measurement)


def read(path: Path) -> dict[str, Any]:
    """The settings in a file, as ``config.json`` of a run has them or by themselves, by :func:`from_json`."""
    try:
        values = read_json(path)
        return from_json(values["config"] if isinstance(values.get("config"), dict) else values)
    except ValueError as error:
        raise UserError(f"--config: {printable(path)}: {printable(error)}") from error


def from_json(values: dict[str, Any]) -> dict[str, Any]:
    """The settings among values of :func:`to_json`, without those that are ``None`` and those of where a run is
    written; a ValueError if there are others, or values of another type."""
    given = {name: value for name, value in values.items() if name not in PLACE and value is not None}
    found = msgspec.convert(given, Config)
    nested = [f"measurement.{name}" for name in given.get("measurement", {}).keys() - vars(Measurement()).keys()]
    if unknown := [*sorted(given.keys() - vars(Config()).keys()), *sorted(nested)]:
        raise ValueError(f"has {', '.join(unknown)}, expected names of flags")
    return {name: getattr(found, name) for name in given}


def recipe_for(data: str, train_images: int) -> str:
    """Which of ``DEFAULTS`` a data set gets."""
    return "digits" if data == "digits" else "small" if train_images < SMALL else "others"


def resolve(config: Config, train_images: int = SMALL) -> ResolvedConfig:
    """Fill in what depends on the data set, and on how many training images it has, and check every value; a
    :class:`UserError` names the flag, what was got and what is expected."""
    recipe = recipe_for(config.data, train_images)
    missing = {
        name: math.ceil(SEEN / train_images) if name == "epochs" and isinstance(value, str) else value
        for name, value in DEFAULTS[recipe].items()
        if getattr(config, name) is None and not (name == "preset" and config.model is not None)
    }
    if recipe == "small" and config.measurement.depth is None:
        missing["measurement"] = dataclasses.replace(config.measurement, depth="full")
    config = ResolvedConfig(**vars(config) | missing)

    def expect(field: str, ok: bool, expected: str, of: Any = config) -> None:
        if not ok:
            flag = ("--measurement." if of is config.measurement else "--") + field.replace("_", "-")
            raise UserError(f"{flag}: got {getattr(of, field)!r}, expected {expected}")

    whole = ("epochs", "max_steps", "width", "batch_size", "image_size", "checkpoint_steps", "devices")
    for field in whole:
        value = getattr(config, field)
        expect(field, value is None or value >= 1, "at least 1")
    if config.model is None:
        expect("preset", config.preset in get_args(Preset), f"one of {', '.join(get_args(Preset))}")
        expect("batch_norm", config.batch_norm is None, "none without --model: presets have no nnx.BatchNorm")
    else:
        expect("model", ":" in config.model, "MODULE:FUNCTION, for example my_package.nets:resnet20")
        expect("preset", config.preset is None, "none with --model, which takes a preset's place")
        expect("width", config.width is None, "none with --model, whose layers have widths of their own")
        expect("dtype", config.dtype == "float32", "float32 with --model, whose layers have types of their own")
    known = config.puppeteer in PUPPETEERS or ":" in config.puppeteer
    expect("puppeteer", known, f"one of {', '.join(PUPPETEERS)}, or MODULE:FUNCTION, such as my_package.kernels:make")
    listed = config.exits in (None, "none") or all(each.isdecimal() for each in (config.exits or "").split(","))
    expect("exits", listed, "depths with commas between them, such as 3,5, or none")
    expect("compression", config.compression is None or config.compression > 0, "a number above 0")
    width = config.measurement.bin
    expect("bin", width is None or 0 < width <= 8, "above 0 and at most 8 bits, or None", config.measurement)
    expect("learning_rate", 0 < config.learning_rate < math.inf, "a number above 0")
    expect("weight_decay", 0 <= config.weight_decay < math.inf, "0 or a number above it")
    expect("ema", 0 <= config.ema < 1, "a decay in [0, 1)")
    expect("label_smoothing", 0 <= config.label_smoothing < 1, "a share in [0, 1)")
    expect("seed", 0 <= config.seed < 2**32, "a whole number from 0 to 2**32 - 1")
    expect("puppeteer_options", _is_json_object(config.puppeteer_options), """a JSON object such as '{"basis": 32}'""")
    expect("resume", config.resume is None or not (config.out or config.config), "no --out or --config with it")
    return config


def to_json(config: Config) -> dict[str, Any]:
    """The configuration as plain JSON values."""
    values = dataclasses.asdict(config)
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def recipe_of(config: ResolvedConfig) -> dict[str, Any]:
    """What decides a run's numbers, as plain JSON values without a path; what is ``None`` is left out."""
    values = {name: value for name, value in to_json(config).items() if name not in FREE and value is not None}
    named = {name: Path(values[name]).name for name in ("start_from", "teacher") if name in values}
    return values | named | {"data": config.data_name}


def check_resumed(ran: ResolvedConfig, asked: ResolvedConfig) -> None:
    """Refuse flags that would change the numbers of a run, naming every field that differs with both values."""
    both = [vars(each) | {f"measurement.{k}": v for k, v in vars(each.measurement).items()} for each in (ran, asked)]
    wrong = [
        f"--{name.replace('_', '-')} is {value!r} in the run, got {both[1][name]!r}"
        for name, value in both[0].items()
        if name not in (*FREE, "measurement")
        and value != both[1][name]
        # Other models are known by their digests (:mod:`train.runs.origins`), wherever they lie now.
        and not (name in ("start_from", "teacher") and value and both[1][name])
    ]
    if wrong:
        raise UserError(
            f"--resume: {'; '.join(wrong)}. A resumed run goes on to the numbers that it began with: leave these flags "
            f"out, or begin another run with its parameters: --start-from {asked.resume or 'RUN'}"
        )


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except json.JSONDecodeError:
        return False
