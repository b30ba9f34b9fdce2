"""The file of a trained model, of a run (``params.safetensors``) or released: written, and opened by somebody who may
not have trained it.

It can come from anybody. It is a safetensors file, which holds nothing executable, but its header says what model to
build. All that it says is checked against types, bounds and the shapes of its arrays before anything is built, and by
the same checks before a model is trained: what is written can be opened.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import safetensors.numpy
from flax import nnx

import puppet_jax as pj
from puppet_jax import _pretrained
from puppet_jax._named_function import is_function_name
from puppet_jax._pretrained import FORMAT, KEY, flat, parameters_file
from train import atomic_file, host
from train.build import measurement
from train.config import OF_MODEL, Config, ResolvedConfig, recipe_of, resolve
from train.errors import UserError
from train.terminal import printable

MOST_PIXELS = 2**22
"""Of an image: few enough for a batch of such images to fit in memory."""
LARGEST_OPTION = 4096
"""The largest integer option of a puppeteer of this package: widths, steps of a solver."""

Count = Annotated[int, msgspec.Meta(ge=1)]


class Create(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What the model is created from: arguments of :func:`puppet_jax.create` (``name``: the preset), or of
    :func:`puppet_jax.puppetize`, with the function that makes the CNN (``model``)."""

    num_classes: Count
    in_channels: Count
    puppeteer: str
    puppeteer_options: dict[str, Any]
    measurement: dict[str, Any]
    name: str | None = None
    width: Count | None = None
    exits: list[Count] | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    model: str | None = None
    batch_norm: Literal["group", "running"] | None = None
    compression: float | None = None

    def __post_init__(self) -> None:
        if (self.name is None) == (self.model is None):
            raise ValueError("expected the name of a preset or the function of a CNN")
        for key, value in self.puppeteer_options.items():
            if isinstance(value, int) and value > LARGEST_OPTION and not is_function_name(self.puppeteer):
                raise ValueError(f"the puppeteer's {key} is {value}, expected at most {LARGEST_OPTION}")


class About(msgspec.Struct, omit_defaults=True):
    """What a file says about its model.

    Attributes:
        image_size: (height, width) in pixels of the images that it was trained on.
        class_names: one for each logit.
        recipe: of its run, but for what ``create`` has (:func:`train.config.recipe_of`).
        began: the digest of the model whose parameters its run began with.
        data: what identifies the images that it was trained and evaluated on (:func:`train.data.fingerprint`).
        epoch, step: how many were done; of a run's file.
        data_note, evaluated_on, evaluated_images, accuracy, parameters, weights, float32_accuracy: of a released file.
    """

    format: Literal[FORMAT]  # type: ignore[valid-type]
    create: Create
    image_size: tuple[Count, Count]
    class_names: list[str]
    recipe: dict[str, Any]
    began: str | None = None
    data: dict[str, Any] = {}
    epoch: int | None = None
    step: int | None = None
    data_note: str = ""
    evaluated_on: str | None = None
    evaluated_images: int | None = None
    accuracy: float | None = None
    parameters: dict[str, int] = {}
    weights: str = "float32"
    float32_accuracy: float | None = None

    def __post_init__(self) -> None:
        if self.image_size[0] * self.image_size[1] > MOST_PIXELS:
            raise ValueError(f"the images' size is {list(self.image_size)}, expected at most {MOST_PIXELS:,} pixels")
        if len(self.class_names) != self.create.num_classes:
            raise ValueError(f"got {len(self.class_names)} class_names, expected {self.create.num_classes}")


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model with its trained parameters, in evaluation mode; the folder of its run, or its file; the configuration
    that it was trained with, without where its data lay; and what its file says."""

    source: Path
    model: pj.PuppetCNN
    config: ResolvedConfig
    about: About

    def digest(self) -> str:
        """SHA-256 of all that predictions follow from: what makes the model, parameters, images and classes."""
        keys = ("create", "image_size", "class_names")
        described = {key: msgspec.to_builtins(getattr(self.about, key)) for key in keys}
        return digest(json.dumps(described, sort_keys=True), flat(nnx.state(self.model, nnx.Param)))


def describe(config: ResolvedConfig, fingerprint: Mapping[str, Any], began: str | None = None) -> About:
    """What the file of a run will say about its model, refused if it could not be opened again; ``began`` is as in
    :class:`About`."""
    recipe, data = recipe_of(config), dict(fingerprint)
    class_names, (height, width, channels) = data.pop("class_names"), data.pop("image_shape")
    create = {
        "num_classes": len(class_names),
        "in_channels": channels,
        "puppeteer": config.puppeteer,
        "puppeteer_options": json.loads(config.puppeteer_options),
        "measurement": {k: v for k, v in measurement(config).items() if v is not None or k == "bin"},
        "dtype": config.dtype,
    }
    create |= {name: getattr(config, name) for name in ("width", "model", "batch_norm", "compression")}
    create["exits"] = config.exit_depths
    if config.exits is None and config.model is None:
        create["exits"] = pj.PRESETS[config.preset or ""].exits
    if config.model is None:
        create["name"] = config.preset
        if config.compression is None:  # with the preset's own options, which may differ in a later version
            of_preset = pj.PRESETS[config.preset or ""].puppeteer_options.get(config.puppeteer, {})
            create["puppeteer_options"] = {**of_preset, **create["puppeteer_options"]}
    about = {
        "format": FORMAT,
        "create": create,
        "image_size": [height, width],
        "class_names": class_names,
        "recipe": {name: value for name, value in recipe.items() if name not in OF_MODEL},
        "began": began,
        "data": data,
    }
    return _checked(about, "the model could not be opened again")


def save(path: Path, arrays: Mapping[str, np.ndarray], about: About) -> int:
    """Write a model's file whole or not at all, and return its size in bytes."""
    content = safetensors.numpy.save(dict(arrays), metadata={KEY: msgspec.json.encode(about).decode()})
    atomic_file.write(path, content)
    return len(content)


def read(path: Path) -> tuple[dict[str, np.ndarray], About]:
    """The arrays in a model's file by dotted name, and what it says; refused if it is no such file, damaged, of
    another program or of another version."""
    try:
        arrays, about = _pretrained.read(path)
    except ValueError as error:
        raise UserError(f"{printable(path)}: {printable(str(error))}") from error
    return arrays, _checked(about, f"{printable(path)}: its header is damaged or of another version")


def open_run(source: Path) -> Trained:
    """The trained model of a run's folder, of its parameters' file or of a released file; refused as by :func:`read`,
    if it has no parameters (yet), and if the function that makes it cannot be imported here."""
    path = parameters_file(source)
    arrays, about = read(path)
    create = msgspec.to_builtins(about.create)
    of_model = {name: create.get(name) for name in ("width", "model", "batch_norm", "compression", "puppeteer")}
    of_model |= {"preset": about.create.name, "dtype": about.create.dtype, "measurement": about.create.measurement}
    of_model["puppeteer_options"] = json.dumps(about.create.puppeteer_options)
    if about.create.exits is not None:
        of_model["exits"] = ",".join(map(str, about.create.exits)) or "none"
    try:
        config = resolve(msgspec.convert(about.recipe | of_model, Config))  # without what this version does not know
        model = _pretrained.model_of(msgspec.structs.asdict(about) | {"create": create}, arrays)
    except Exception as error:  # the values can be anything, and so can the error that they cause
        if host.no_backend():
            raise
        raise UserError(f"{printable(path)}: cannot be opened here: {printable(str(error))[:400]}") from error
    return Trained(source, model, config, about)


def outline(about: About, num_classes: int | None = None) -> pj.PuppetCNN:
    """The model that is described with shapes in place of arrays, with so many classes if they are given."""
    create = msgspec.to_builtins(about.create)
    create["num_classes"] = num_classes or about.create.num_classes
    return _pretrained.outline(functools.partial(_pretrained.build, create, about.image_size))


def digest(about: str, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of a text and of arrays, their names, types and shapes."""
    found = hashlib.sha256(about.encode())
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype} {array.shape} ".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _checked(about: Mapping[str, Any], what: str) -> About:
    try:
        return msgspec.convert(about, About)
    except msgspec.ValidationError as error:
        raise UserError(f"{what}: {printable(str(error))}") from error
