"""``python -m train eval RUN``: a trained model measured again on its data set."""

import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from train.config import shown
from train.errors import UserError
from train.runs.reading import Summary, read_json
from train.runs.source import OfModel
from train.terminal import printable, table

WORST = 20
"""How many classes are printed, those with most errors first."""

if TYPE_CHECKING:
    from train.data import Split
    from train.runs.model_file import Trained


@dataclass(frozen=True)
class Evaluate(OfModel):
    """Measure a run's model on the images that the run reported on: accuracy, loss, complexity and depth.

    The exact path is taken, in batches of the run's size, as at the end of the training: on the same machine the
    numbers are those of the run's summary.json to the last digit.
    """

    data: Annotated[str | None, shown("NAME|DIR")] = None
    """The data set, if it lies elsewhere now (default: the run's own). Another one of the same classes is measured
    too, which is said."""
    evaluate_on: Annotated[Literal["test", "validation"] | None, shown("{test,validation}")] = None
    """The images to measure on (default: those that the run reported on)."""
    json: bool = False
    """Print one JSON object instead of the table."""


def run(options: Evaluate) -> int:
    """Measure and print. 0; a :class:`UserError` says what to put right."""
    trained, split, own = with_images(options)
    config = trained.config
    evaluated_on = options.evaluate_on or config.evaluate_on
    if evaluated_on == "validation" and config.evaluate_on == "test":
        print("note: the validation images were among those that this run was trained on", file=sys.stderr)
    result = {
        "run": str(trained.source if options.best else options.run),
        "data": config.data_name,
        "evaluated_on": evaluated_on,
        **measured(trained.model, split, config.batch_size, config.devices),
        "reported": _reported(trained, len(split)) if own else None,
    }
    result["accuracy_by_class"] = _by_class(result["confusion"], trained.about.class_names)
    print(json.dumps(result, indent=2, allow_nan=False) if options.json else report(result))
    return 0


def measured(model, split, batch_size: int, devices: int | None) -> dict[str, Any]:
    """Accuracy, loss, complexity and depth of a model on a split, by the exact path, and its ``confusion``: how many
    images of each class are taken for each. At most so many devices share a batch, as many as divide it."""
    import jax
    import numpy as np
    from flax import nnx

    from train import data
    from train.devices import BATCH
    from train.steps.evaluation import accuracy_by, confusion, evaluate, measure
    from train.steps.exits import at_exits, dial
    from train.steps.step import make_eval_step
    from train.telling import compiling

    graphdef, *states = nnx.split(model, nnx.Param, ...)
    params, rest = states
    local = jax.local_devices()
    count = next(n for n in range(min(devices or len(local), len(local)), 0, -1) if batch_size % n == 0)
    mesh = jax.sharding.Mesh(np.array(local[:count]), (BATCH,))
    step, first = make_eval_step(graphdef, mesh), data.Split(split.images[:1], split.labels[:1])
    with compiling("the evaluation", log=False):
        evaluate(step, params, rest, first, batch_size, mesh)
    loss, taken = evaluate(step, params, rest, split, batch_size, mesh)
    correct = taken == split.labels
    images = measure(model, split, batch_size, mesh)
    mean_loss = float(loss.mean(dtype=float))
    return {
        "images": len(split),
        "correct": int(correct.sum()),
        "accuracy": float(correct.mean(dtype=float)),
        "loss": mean_loss if math.isfinite(mean_loss) else None,
        "complexity_mean_bits": float(images["complexity"].mean(dtype=float)),
        "depth_mean": float(images["depth"].mean(dtype=float)),
        "clipped": float(images["clipped"].mean(dtype=float)),
        "max_depth": model.max_depth,
        "accuracy_by_depth": accuracy_by("depth", images["depth"], correct),
        "confusion": confusion(split.labels, taken, model.puppet.num_classes).tolist(),
        **(dial(model, at_exits(model, split, batch_size, mesh), split) if model.puppet.exits else {}),
    }


def _by_class(counts: list[list[int]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Of each class that has images: how many, which share of them is right, and what most others are taken for."""
    found = []
    for label, row in enumerate(counts):
        most = max((count, other) for other, count in enumerate(row) if other != label)
        if sum(row):
            line = {"class": names[label], "images": sum(row), "accuracy": row[label] / sum(row)}
            found.append(line | {"taken_for": names[most[1]] if most[0] else None})
    return found


def report(result: dict[str, Any]) -> str:
    """The result for a human."""
    images, reported = result["images"], result["reported"]
    as_reported = f", {reported['correct']:,} reported" if reported else ""
    if reported and reported["correct"] == result["correct"]:
        as_reported = ", as reported"
    loss = "not a number" if result["loss"] is None else f"{result['loss']:.4f} nats"
    facts = [
        ("run", printable(result["run"])),
        ("evaluated on", f"{printable(result['data'])}, {result['evaluated_on']}: {images:,} images"),
        ("accuracy", f"{result['accuracy']:.2%} ({result['correct']:,} of {images:,}{as_reported})"),
        ("loss", loss),
        ("complexity", f"{result['complexity_mean_bits']:.2f} bits on average"),
        (
            "depth",
            f"{result['depth_mean']:.2f} layers on average, {result['clipped']:.2%} cut off at D_max = "
            f"{result['max_depth']}",
        ),
    ]
    wide = max(len(name) for name, _ in facts) + 2
    rows = [(str(row["depth"]), f"{row['images']:,}", f"{row['accuracy']:.2%}") for row in result["accuracy_by_depth"]]
    by_depth = table(("depth", "images", "accuracy"), rows, (True, True, True))
    worst = sorted(result["accuracy_by_class"], key=lambda row: row["accuracy"])[:WORST]
    classes = [
        (f"{row['images']:,}", f"{row['accuracy']:.2%}", printable(row["class"]), printable(row["taken_for"] or ""))
        for row in worst
    ]
    by_class = table(("images", "accuracy", "class", "most taken for"), classes, (True, True, False, False))
    exits = []
    for kind in ("exit", "confidence"):
        lines = result.get(f"accuracy_by_{kind}", [])
        cells = [
            (f"{line['multiplications'] / 1e6:.2f}", f"{line['accuracy']:.2%}", f"{line['depth']:.2f}".rstrip("0."))
            + ((str(line[kind]),) if kind in line else ())
            for line in lines
        ]
        names = ("million multiplications", "accuracy", "depth", *([kind] if kind == "confidence" else []))
        exits += ["", table(names, cells, (True,) * len(names))] if lines else []
    return "\n".join([*(f"{name:<{wide}}{text}" for name, text in facts), "", by_class, "", by_depth, *exits])


def with_images(options: Evaluate) -> tuple["Trained", "Split", bool]:
    """The trained model, the images to measure it on, of the size that it is for, and whether they are those that it
    was reported on."""
    path = options.located()

    from train import data
    from train.runs import run_folder
    from train.runs.model_file import open_run

    trained = open_run(path)
    config, about = trained.config, trained.about
    with contextlib.suppress(UserError):  # where the run had its images, and on what devices
        ran = run_folder.described(path.parent if options.best else path).config
        config = dataclasses.replace(config, data=ran.data, devices=ran.devices)
    if options.data is not None:
        config = dataclasses.replace(config, data=options.data)
    height, width = about.image_size
    dataset = data.load(
        config.data,
        options.evaluate_on or config.evaluate_on,
        image_size=height if height == width else config.image_size,
    )
    *size, channels = dataset.test.images.shape[1:]
    found = {"image_size": size, "in_channels": channels, "class_names": ", ".join(dataset.class_names)}
    expected = {
        "image_size": [height, width],
        "in_channels": about.create.in_channels,
        "class_names": ", ".join(about.class_names),
    }
    for each, value in found.items():
        if expected[each] != value:
            raise UserError(
                f"{printable(config.data)} has {each} = {printable(value)[:80]}, the model of {printable(options.run)} "
                f"{printable(expected[each])[:80]}: not the data set that it was trained on; name that with --data"
            )
    own = (options.evaluate_on or config.evaluate_on) == config.evaluate_on
    if own and (wrong := data.differences(dataset, about.data)):
        print(f"note: not the images that the run began with ({'; '.join(wrong)})", file=sys.stderr)
        own = False
    return dataclasses.replace(trained, config=config), dataset.test, own


def _reported(trained: "Trained", images: int) -> dict[str, Any] | None:
    """What the run's summary, or the released file, says of as many images; ``None`` if nothing."""
    about = trained.about
    if about.accuracy is not None:
        if about.evaluated_images != images:
            return None
        return {"correct": round(about.accuracy * images), "accuracy": about.accuracy, "loss": None}
    with contextlib.suppress(UserError):
        told = read_json(trained.source / "summary.json", Summary)
        if (told.evaluated_on, told.test_images) == (trained.config.evaluate_on, images):
            return {"correct": told.test_correct, "accuracy": told.test_accuracy, "loss": told.test_loss}
    return None
