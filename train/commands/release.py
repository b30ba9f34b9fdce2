"""``python -m train release RUN``: a run's model as a file that ``puppet_jax.load_pretrained`` reads, with its card."""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import tyro

from train import atomic_file
from train.config import shown
from train.errors import UserError
from train.runs.reading import Summary, read_json
from train.runs.source import OfModel
from train.terminal import printable

if TYPE_CHECKING:
    from train.runs.model_file import About


@dataclass(frozen=True)
class Release(OfModel):
    """Write a run's model for use without this trainer: NAME.safetensors, and NAME.md, the model card."""

    run: Annotated[Path, tyro.conf.Positional, shown("RUN")]
    """Folder that python -m train left, of a finished run."""
    name: Annotated[str, tyro.conf.arg(metavar="NAME")]
    """Of the model: letters, digits and underscores."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder for the two files."""
    weights: Literal["float32", "float16", "int8"] = "float32"
    """What each number is stored as; int8 with a scale for each row. The accuracy that the file tells is measured with
    these."""
    data_note: str = ""
    """What a reader of the accuracy must know of the data."""
    overwrite: bool = False
    """Replace a model of the same name."""


def run(options: Release) -> int:
    """Write both files, and return 0."""
    if not re.fullmatch(r"\w+", options.name, re.ASCII):
        raise UserError(f"--name: got {printable(options.name)!r}, expected letters, digits and underscores")
    folder, file = options.run, options.located()
    if not (folder / "summary.json").exists():
        raise UserError(f"{printable(folder)}: has no summary.json, expected a finished run; go on with it first")
    summary = read_json(folder / "summary.json", Summary)
    weights, card = (options.out / f"{options.name}{end}" for end in (".safetensors", ".md"))
    for each in (weights, card):
        if each.exists() and not options.overwrite:
            raise UserError(f"--out: {each} is there already; choose another --name, or replace it with --overwrite")

    from flax import nnx

    import puppet_jax as pj
    from puppet_jax._pretrained import flat, weights_folder
    from puppet_jax._stored_dtype import pack, unpack
    from train.runs import model_file

    trained = model_file.open_run(file)
    accuracy = summary.best["test_accuracy"] if options.best else summary.test_accuracy
    about = msgspec.structs.replace(
        trained.about,
        epoch=trained.about.epoch if options.best else None,
        step=None,
        data_note=options.data_note,
        evaluated_on=summary.evaluated_on,
        evaluated_images=summary.test_images,
        accuracy=accuracy,
        parameters=summary.parameters,
    )
    try:
        arrays = pack(flat(nnx.state(trained.model, nnx.Param)), options.weights)
    except ValueError as error:
        raise UserError(f"--weights {options.weights}: {error}") from error
    if options.weights != "float32":
        about.weights, about.float32_accuracy = options.weights, accuracy
        about.accuracy = _accuracy(folder, unpack(arrays), summary.test_images)
    options.out.mkdir(parents=True, exist_ok=True)
    of_package = options.out.resolve() == weights_folder().resolve()
    with atomic_file.replacing(weights) as first, atomic_file.replacing(card) as second:
        size = model_file.save(first, arrays, about)
        opened = options.name if of_package else weights.name
        costs = ";\n  ".join(pj.summary(trained.model).costs)
        second.write_text(_card(options.name, opened, about, summary, size, costs), encoding="utf-8")
    print(f"written: {printable(weights)} ({size:,} bytes), {printable(card)}", file=sys.stderr)
    opened = options.name if of_package else str(weights)
    print(f"puppet_jax.load_pretrained({json.dumps(opened)}) opens it", file=sys.stderr)
    return 0


def _accuracy(folder: Path, arrays: dict[str, Any], images: int) -> float:
    """Of the run's model with these parameters, on the images that the run was measured on."""
    from puppet_jax._pretrained import assign
    from train.commands.evaluate import Evaluate, measured, with_images

    trained, split, own = with_images(Evaluate(folder))
    if not own or len(split) != images:
        raise UserError("--weights: the images that the run was measured on are needed, and these are others")
    assign(trained.model, arrays)
    return measured(trained.model, split, trained.config.batch_size, trained.config.devices)["accuracy"]


def _card(name: str, opened: str, about: "About", summary: Summary, size: int, costs: str) -> str:
    """The model card, by ``card.md``; ``opened`` is what ``load_pretrained`` takes where the card lies."""
    from train.steps.optimiser import CLIP_NORM, WARMUP

    recipe, parameters, create = about.recipe, about.parameters, about.create
    optimiser = "Muon" if recipe.get("optimiser") == "muon" else "AdamW"
    kernels = parameters["static_twin"] - parameters["normalisation"] - parameters["head"]
    as_float32, stored = "", ""
    if about.float32_accuracy is not None:
        as_float32, stored = ", as float32", f", as {about.weights}; {about.float32_accuracy:.2%} as float32"
    after = "the last epoch" if about.epoch is None else f"epoch {about.epoch}, the best of all on these"
    height, width = about.image_size
    options = f" with options `{json.dumps(create.puppeteer_options)}`" if create.puppeteer_options else ""
    of_width = f", {create.width} channels a layer" if create.width else ""
    net = f"preset `{create.name}`" if create.name else f"the CNN of `{create.model}`, which must be importable"
    every = ", all layers for every image" if create.measurement.get("depth") == "full" else ""
    begun = f"; begun with the parameters of `{recipe['start_from']}`" if recipe.get("start_from") else ""
    begun += f", SHA-256 `{about.began[:16]}`" if about.began else ""
    taught = f"; distilled from `{recipe['teacher']}`" if recipe.get("teacher") else ""
    weighted = ", classes weighted alike" if recipe.get("class_weights") == "balanced" else ""
    at_most = f", at most {recipe['max_steps']:,} steps," if "max_steps" in recipe else ""
    note = f" {about.data_note}" if about.data_note else ""
    fewer, classes = kernels / parameters["generator"], ", ".join(about.class_names)
    # The template names what is named here.
    named = locals() | {"warmup": WARMUP, "clip_norm": CLIP_NORM}
    text = Path(__file__).with_name("card.md").read_text(encoding="utf-8").format(**named)
    tables = [
        ("depth", "Accuracy of the images of each depth", summary.accuracy_by_depth),
        ("complexity", "Of each bin of complexity, by its centre in bits", summary.accuracy_by_bin),
    ]
    for name, said, lines in tables:
        if lines and about.epoch is None:  # they are of the last epoch
            text += f"\n{said}{as_float32}:\n\n| {name} | images | accuracy |\n| --- | --- | --- |\n"
            text += "".join(f"| {line[name]:g} | {line['images']:,.0f} | {line['accuracy']:.1%} |\n" for line in lines)
    return text
