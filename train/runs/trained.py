"""A run's trained model, opened by somebody who may not have trained it.

A run folder can come from anybody. Its parameters are a safetensors file, which holds nothing executable, but its
header says what model to build and could ask for terabytes. So all that it says is checked against the shapes of the
arrays in the file before anything is built.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
from flax import nnx

import puppet_jax as pj
from puppet_jax._named_function import is_function_name, named_function
from puppet_jax._stored_dtype import SCALES
from train.build import build, outline
from train.config import ResolvedConfig, from_json
from train.errors import UserError
from train.runs import parameters
from train.runs.reading import open_folder, parse_object
from train.runs.released import KEY, as_run
from train.runs.source import PARAMETERS, SUFFIX, parameters_file
from train.terminal import printable

# Pixels on a side: more than any data set has, and few enough for a batch of such images to fit in memory.
LARGEST_SIDE = 2048
# The largest integer option of a puppeteer: widths, steps of a solver.
LARGEST_OPTION = 4096


@dataclass(frozen=True)
class Images:
    """What images a model was trained on, and what it calls them.

    Attributes:
        size: (height, width) in pixels.
        channels: 1 for grey, 3 for colour.
        class_names: one for each logit.
    """

    size: tuple[int, int]
    channels: int
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Trained:
    """A model with its trained parameters, in evaluation mode, the configuration of its run, and what the file says.

    Attributes:
        folder: of the run, or the file.
        released: what a released file says besides; ``None`` of a run.
    """

    folder: Path
    model: pj.PuppetCNN
    config: ResolvedConfig
    about: dict[str, Any]

    @property
    def released(self) -> dict[str, Any] | None:
        return self.about.get("released")

    def digest(self) -> str:
        """SHA-256 of all that predictions follow from: the parameters, the configuration, the images' description."""
        described = {name: self.about.get(name) for name in ("config", "model", "images")}
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
        for name, array in sorted(parameters.flat(nnx.state(self.model, nnx.Param)).items()):
            digest.update(f"{name} {array.dtype} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def earlier(self) -> list[dict[str, Any]]:
        """The runs that made the parameters that its run began with (:func:`train.runs.start.begin_with`).

        Raises:
            UserError: the file does not say it in a usable form.
        """
        runs = self.about.get("earlier", [])
        try:
            return [{"digest": str(run["digest"]), "recipe": dict(run["recipe"])} for run in runs]
        except (KeyError, TypeError, ValueError) as error:
            name = printable(parameters_file(self.folder))
            raise UserError(f"{name}: damaged, the runs before it are {_short(runs)}") from error

    def images(self) -> Images:
        """What images to give it.

        Raises:
            UserError: the file does not say, or not in a usable form.
        """
        name = printable(parameters_file(self.folder))
        images = self.about.get("images")
        if not isinstance(images, dict):
            raise UserError(
                f"{name}: does not say what images it was trained on, expected their size and the names of the "
                "classes; train it again"
            )
        size, names = images.get("size"), images.get("class_names")
        channels, classes = self.about["model"]["in_channels"], self.about["model"]["num_classes"]
        if not (isinstance(size, list) and len(size) == 2 and all(_whole(side, LARGEST_SIDE) for side in size)):
            raise UserError(
                f"{name}: damaged, the images' size is {_short(size)}, expected height and width from 1 to "
                f"{LARGEST_SIDE} pixels"
            )
        if not (isinstance(names, list) and all(isinstance(each, str) for each in names) and len(names) == classes):
            raise UserError(f"{name}: damaged, class_names is {_short(names)}, expected {classes} names")
        if channels not in (1, 3):
            raise UserError(f"{name}: the model takes {channels} channels, expected 1 (grey) or 3 (colour)")
        return Images((size[0], size[1]), channels, tuple(names))


def open_run(folder: Path) -> Trained:
    """The trained model of a run's folder, of its parameters' file or of a released file.

    Raises:
        UserError: it is none of these, has no parameters (yet), or they are damaged, of another program or of another
            version; or the function that makes the model cannot be imported here.
    """
    path = parameters_file(folder if folder.suffix == SUFFIX else open_folder(folder))
    shapes, about = _header(path)
    config, model = _checked(path, shapes, about)
    arrays = parameters.arrays_of(path)
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise UserError(f"{printable(path)}: damaged, {name} holds values that are no numbers")
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(nnx.state(model, nnx.Not(nnx.Param)))):
        model = build(config, **about["model"])  # it has more than parameters: random streams, averages
    parameters.assign(model, arrays)
    model.eval()
    return Trained(folder, model, config, about)


def stored(folder: Path) -> int | None:
    """How many parameters a run has stored, from the header of their file; ``None`` if that cannot be read."""
    try:
        shapes, _ = _header(folder / PARAMETERS)
    except UserError:
        return None
    return sum(math.prod(shape) for shape in shapes.values())


def _header(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """The shapes of the arrays, none of which is read, and what was saved about them."""
    if not path.is_file():  # opening a named pipe would wait for its writer
        raise UserError(f"{printable(path)}: not a regular file, expected the parameters of a run")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            names = [name for name in file.keys() if not name.endswith(SCALES)]  # noqa: SIM118, no mapping
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{printable(path)}: not a whole safetensors file ({error}); it is truncated, corrupt or of another format"
        ) from error
    if KEY in header:
        return shapes, as_run(header[KEY], printable(path))
    parameters.check_format(printable(path), header.get("format"))
    return shapes, parse_object(header.get("about", ""), f"{printable(path)}, its header")


def _checked(
    path: Path, shapes: dict[str, tuple[int, ...]], about: dict[str, Any]
) -> tuple[ResolvedConfig, pj.PuppetCNN]:
    """The configuration, and the model without arrays; a header whose model is not theirs is refused."""
    name = f"{printable(path)}: its header is damaged or of another version"
    config, model = about.get("config"), about.get("model")
    if not (isinstance(config, dict) and isinstance(model, dict)):
        raise UserError(f"{name}: expected the configuration and the model's sizes")
    total = sum(math.prod(shape) for shape in shapes.values())
    for size in ("num_classes", "in_channels"):
        if not _whole(model.get(size), max(total, 1)):
            raise UserError(f"{name}: {size} is {_short(model.get(size))}, for {total:,} parameters in all")
    sides = model.get("image_size", [1, 1])
    if not (isinstance(sides, list) and len(sides) == 2 and all(_whole(side, LARGEST_SIDE) for side in sides)):
        raise UserError(f"{name}: image_size is {_short(sides)}, expected height and width from 1 to {LARGEST_SIDE}")
    if config.get("dtype") not in ("float32", "bfloat16"):
        raise UserError(f"{name}: dtype is {_short(config.get('dtype'))}, expected float32 or bfloat16")
    options = config.get("puppeteer_options")
    options = parse_object(options if isinstance(options, str) else "", f"{name}: puppeteer_options")
    for key, value in options.items():
        if isinstance(value, int) and value > LARGEST_OPTION:
            raise UserError(f"{name}: {printable(key)} is {_short(value)}, expected at most {LARGEST_OPTION}")
    for key, what in (("model", "the puppet of a CNN of your own"), ("puppeteer", "a puppeteer of your own")):
        if isinstance(named := config.get(key), str) and (key == "model" or is_function_name(named)):
            try:
                named_function(named)
            except ValueError as error:
                raise UserError(f"{printable(path)}: {what}: {error}") from error
    try:
        described = from_json(config)
        made = outline(described, **model)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    except Exception as error:  # the values can be anything, and so can the error that they cause
        raise UserError(f"{name}: {type(error).__name__}: {str(error)[:200]}") from error
    expected = {
        ".".join(str(entry.key) for entry in path if hasattr(entry, "key")): leaf.shape
        for path, leaf in jax.tree.leaves_with_path(nnx.state(made, nnx.Param))
    }
    for key in sorted(expected.keys() | shapes.keys()):
        if expected.get(key) != shapes.get(key):
            raise UserError(
                f"{name}: {printable(key)} has shape {shapes.get(key, 'none')}, expected {expected.get(key, 'none')}"
            )
    return described, made


def _whole(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _short(value: Any) -> str:
    text = printable(json.dumps(value) if value is not None else "missing")
    return text if len(text) <= 60 else text[:57] + "..."
