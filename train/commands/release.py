"""``python -m train release RUN``: a run's model as a file that ``puppet_jax.load_pretrained`` reads, with its card."""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from train.errors import UserError
from train.runs.reading import open_folder, parse_object
from train.terminal import printable


@dataclass(frozen=True)
class Release:
    """Write a run's model for use without this trainer: NAME.safetensors, and NAME.md, the model card."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help_behavior_hint="")]
    """Folder that python -m train left, of a finished run evaluated on test images."""
    name: Annotated[str, tyro.conf.arg(metavar="NAME")]
    """Of the model: letters, digits and underscores."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("puppet_jax/weights")
    """Folder for the two files."""
    weights: Literal["float32", "float16", "int8"] = "float32"
    """What each number is stored as; int8 with a scale for each row. The accuracy that the file tells is measured with
    these."""
    data_note: str = ""
    """What a reader of the accuracy must know of the data."""
    overwrite: bool = False
    """Replace a model of the same name."""


def run(options: Release) -> int:
    """Write both files. 0.

    Raises:
        UserError: the run is not finished or damaged, or the files are there already.
    """
    if not re.fullmatch(r"\w+", options.name, re.ASCII):
        raise UserError(f"--name: got {printable(options.name)!r}, expected letters, digits and underscores")
    folder = open_folder(options.run)
    path = folder / "summary.json"
    if not path.exists():
        raise UserError(f"{printable(folder)}: has no summary.json, expected a finished run; go on with it first")
    summary = parse_object(path.read_text(), printable(path))
    weights, card = (options.out / f"{options.name}{end}" for end in (".safetensors", ".md"))
    for file in (weights, card):
        if file.exists() and not options.overwrite:
            raise UserError(f"--out: {file} is there already; choose another --name, or replace it with --overwrite")

    import safetensors.numpy
    from flax import nnx

    from puppet_jax._pretrained import FORMAT, KEY
    from puppet_jax._stored_dtype import pack, unpack
    from puppet_jax.puppets._presets import PRESETS
    from train import atomic_file
    from train.build import measurement
    from train.config import recipe_of
    from train.runs.parameters import flat
    from train.runs.trained import open_run

    trained = open_run(folder)
    config, images = trained.config, trained.images()
    recipe = recipe_of(config)
    made = {
        "puppeteer": config.puppeteer,
        "num_classes": len(images.class_names),
        "in_channels": images.channels,
        "puppeteer_options": json.loads(config.puppeteer_options),
        "measurement": measurement(config),
    }
    if config.compression is not None:
        made["compression"] = config.compression
    if config.model is not None:
        made |= {"model": config.model, "batch_norm": config.batch_norm}
    else:
        of_preset = PRESETS[config.preset or ""].puppeteer_options.get(config.puppeteer, {})
        if config.compression is None:  # with the preset's own options, which may differ in a later version
            made["puppeteer_options"] = {**of_preset, **made["puppeteer_options"]}
        made |= {"name": config.preset, "width": config.width}
    about = {
        "format": FORMAT,
        "create": made,
        "class_names": list(images.class_names),
        "image_size": list(images.size),
        "data": config.data_name,
        "data_note": options.data_note,
        "evaluated_on": summary["evaluated_on"],
        "accuracy": summary["test_accuracy"],
        "evaluated_images": summary["test_images"],
        "parameters": summary["parameters"],
        "recipe": recipe,
        "earlier": [{"digest": each["digest"], "but": _changes(recipe, each["recipe"])} for each in trained.earlier()],
    }
    try:
        arrays = pack(flat(nnx.state(trained.model, nnx.Param)), options.weights)
    except ValueError as error:
        raise UserError(f"--weights {options.weights}: {error}") from error
    if options.weights != "float32":
        about |= {"weights": options.weights, "float32_accuracy": about["accuracy"]}
        about["accuracy"] = _accuracy(folder, unpack(arrays), about)
    content = safetensors.numpy.save(arrays, metadata={KEY: json.dumps(about)})
    options.out.mkdir(parents=True, exist_ok=True)
    text = _card(options.name, about, summary, len(content))
    try:
        with atomic_file.replacing(weights) as first, atomic_file.replacing(card) as second:
            first.write_bytes(content)
            second.write_text(text)
    except OSError as error:
        raise UserError(f"--out: {printable(weights)} cannot be written ({error.strerror})") from error
    print(f"written: {weights} ({len(content):,} bytes), {card}", file=sys.stderr)
    return 0


def _accuracy(folder: Path, arrays: dict[str, Any], about: dict) -> float:
    """Of the run's model with these parameters, on the images that the run was measured on."""
    from train.commands.evaluate import Evaluate, measured, with_images
    from train.runs.parameters import assign

    trained, split, own = with_images(Evaluate(folder))
    if not own or len(split) != about["evaluated_images"]:
        raise UserError("--weights: the images that the run was measured on are needed, and these are others")
    assign(trained.model, arrays)
    return measured(trained.model, split, trained.config.batch_size, trained.config.devices)["accuracy"]


def _changes(recipe: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """What to update a recipe with to have the other; ``None`` where that has nothing."""
    both = sorted(recipe.keys() | other.keys())
    return {name: other.get(name) for name in both if recipe.get(name) != other.get(name)}


def _before(run: dict[str, Any]) -> str:
    """Of a card: what one of the runs before the last had of its own."""
    but = [
        f"{name.replace('_', ' ')} {'none' if value is None else printable(str(value))}"
        for name, value in run["but"].items()
    ]
    same = f"the same recipe but for {', '.join(but)}" if but else "the same recipe"
    return f"\n- **The run before**: {same}. It left the model of SHA-256 `{run['digest'][:16]}`."


def _card(name: str, about: dict, summary: dict, size: int) -> str:
    from train.steps.optimiser import CLIP_NORM, WARMUP

    recipe, parameters, made = about["recipe"], about["parameters"], about["create"]
    optimiser = "Muon" if recipe.get("optimiser") == "muon" else "AdamW"
    kernels = parameters["static_twin"] - parameters["normalisation"] - parameters["head"]
    tables = [("depth", summary["accuracy_by_depth"]), ("complexity", summary.get("accuracy_by_bin") or [])]
    by = {
        name: "\n".join(f"| {line[name]:g} | {line['images']:,} | {line['accuracy']:.1%} |" for line in lines)
        for name, lines in tables
    }
    as_float32 = ", as float32" if "weights" in about else ""
    stored = f", as {about['weights']}; {about['float32_accuracy']:.2%} as float32" if "weights" in about else ""
    height, width = about["image_size"]
    options = f" with options `{json.dumps(made['puppeteer_options'])}`" if made["puppeteer_options"] else ""
    of_width = f", {made['width']} channels a layer" if made.get("width") else ""
    net = f"preset `{made['name']}`" if "name" in made else f"the CNN of `{made['model']}`, which must be importable"
    every = ", all layers for every image" if made["measurement"].get("depth") == "full" else ""
    # "then": a model may have been released again, by the same name, since.
    begun = f"; begun with the parameters that `{recipe['start_from']}` then had" if recipe.get("start_from") else ""
    taught = f"; distilled from `{recipe['teacher']}`" if recipe.get("teacher") else ""
    of_runs = f"the last of {len(about['earlier']) + 1} runs" if about["earlier"] else "one run"
    before = "".join(map(_before, about["earlier"]))
    note = f" {about['data_note']}" if about["data_note"] else ""
    text = f"""# {name}

`puppet_jax.load_pretrained("{name}")`: {net}{of_width}{every}, puppeteer `{made["puppeteer"]}`{options}.

- **Task**: {len(about["class_names"])} classes ({", ".join(about["class_names"])}) of images of {height}×{width}
  pixels, {made["in_channels"]} channels, uint8 or float in [0, 1].
- **Data**: `{about["data"]}`.{note}
- **Accuracy**: {about["accuracy"]:.2%} of {about["evaluated_images"]:,} {about["evaluated_on"]} images, after the last
  epoch{stored}; seed {recipe["seed"]}, {of_runs}.
- **Stored**: {parameters["total"]:,} parameters in {size:,} bytes, of them {parameters["generator"]:,} in place of the
  static twin's {kernels:,} kernel parameters ({kernels / parameters["generator"]:.1f} times fewer); normalisation
  {parameters["normalisation"]:,}, head {parameters["head"]:,}.
- **Recipe**: {recipe["epochs"]} epochs of batches of {recipe["batch_size"]}, {optimiser}, peak learning rate
  {recipe["learning_rate"]:g}, cosine decay after a warm-up of {WARMUP:.0%}, weight decay
  {recipe["weight_decay"]:g}, gradients clipped to {CLIP_NORM:g}, augmentation {recipe["augment"]},
  label smoothing {recipe["label_smoothing"]:g}, moving average of parameters {recipe["ema"]:g}{begun}{taught}.{before}
- **Limits**: trained for images like those of its data set, upright and cut to the object; anything else gets one of
  its classes too. Not checked for robustness, calibration or bias. Not for decisions about people.

Accuracy of the images of each depth{as_float32}:

| depth | images | accuracy |
| --- | --- | --- |
{by["depth"]}
"""
    if by["complexity"]:
        text += f"""
Of each bin of complexity, by its centre in bits{as_float32}:

| complexity | images | accuracy |
| --- | --- | --- |
{by["complexity"]}
"""
    return text
