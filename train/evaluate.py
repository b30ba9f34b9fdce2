"""``python -m train eval RUN``: a trained model measured again on its data set."""

import contextlib
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from train.errors import UserError
from train.records import number, open_folder, printable, read_json
from train.table import table


@dataclass(frozen=True)
class Evaluate:
    """Measure a run's model on the images that the run reported on: accuracy, loss, complexity and depth.

    The exact path is taken, in batches of the run's size, as at the end of the training: on the same machine the
    numbers are those of the run's summary.json to the last digit.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help_behavior_hint="")]
    """Folder that python -m train left."""
    evaluate_on: Annotated[
        Literal["test", "validation"] | None, tyro.conf.arg(metavar="{test,validation}", help_behavior_hint="")
    ] = None
    """The images to measure on (default: those that the run reported on)."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Where TensorFlow Datasets keeps prepared sets (default: where the run had them)."""
    batch_size: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Images at a time (default: the run's own). Another number may change the last digits."""
    compiled: bool = False
    """Measure puppet_jax.compile_predict too, and how far it agrees with the model itself."""
    json: bool = False
    """Print one JSON object instead of the table."""


def run(options: Evaluate) -> int:
    """Measure and print. 0; a :class:`UserError` says what to put right."""
    trained, split = _open(options)
    config = trained.config
    evaluated_on = options.evaluate_on or config.evaluate_on
    if evaluated_on == "validation" and config.evaluate_on == "test":
        print("note: the validation images were among those that this run was trained on", file=sys.stderr)
    if sys.stderr.isatty():
        print("compiling ...", file=sys.stderr)  # some seconds in which nothing else is to be seen
    result = {
        "run": str(options.run),
        "data": config.data,
        "evaluated_on": evaluated_on,
        **measured(trained.model, split, options.batch_size or config.batch_size, config.devices),
        "reported": _reported(options.run, evaluated_on, len(split)),
        "compiled": None,
    }
    if options.compiled:
        result["compiled"] = agreement(trained.model, split, options.batch_size or config.batch_size)
    print(json.dumps(result, indent=2, allow_nan=False) if options.json else report(result))
    return 0


def measured(model, split, batch_size: int, devices: int | None) -> dict[str, Any]:
    """Accuracy, loss, complexity and depth of a model on a split, by the exact path.

    Args:
        devices: how many share a batch, ``None`` for all; fewer where there are not so many, or the batch cannot be
            divided among them.
    """
    import jax
    import numpy as np
    from flax import nnx

    from train.devices import BATCH
    from train.evaluation import by_depth, evaluate, measure
    from train.step import make_eval_step

    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    local = jax.local_devices()
    count = next(n for n in range(min(devices or len(local), len(local)), 0, -1) if batch_size % n == 0)
    mesh = jax.sharding.Mesh(np.array(local[:count]), (BATCH,))
    loss, correct = evaluate(make_eval_step(graphdef, mesh), params, rest, split, batch_size, mesh)
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
        "accuracy_by_depth": by_depth(images["depth"], correct),
    }


def agreement(model, split, batch_size: int) -> dict[str, Any]:
    """What ``compile_predict`` makes of the same images, and how far that is from the model itself.

    Raises:
        UserError: the answers are no numbers.
    """
    import jax
    import numpy as np

    import puppet_jax as pj
    from train.data import padded_batches

    predict = pj.compile_predict(model)
    exact = jax.jit(lambda images: model(images))
    found, expected = [], []
    for images in padded_batches(split.images, batch_size):
        found.append(np.asarray(predict(images).logits))
        expected.append(np.asarray(exact(images), np.float32))
    found, expected = (np.concatenate(parts)[: len(split)] for parts in (found, expected))
    if not (np.isfinite(found).all() and np.isfinite(expected).all()):
        raise UserError("--compiled: the model's answers are no numbers, so there is nothing to compare")
    classes = found.argmax(-1)
    return {
        "correct": int(np.sum(classes == split.labels)),
        "accuracy": float(np.mean(classes == split.labels)),
        "same_class": int(np.sum(classes == expected.argmax(-1))),
        "largest_logit_difference": float(np.abs(found - expected).max()),
    }


def report(result: dict[str, Any]) -> str:
    """The result for a human."""
    images, reported, compiled = result["images"], result["reported"], result["compiled"]
    if reported is None:
        as_reported = ""
    elif reported["correct"] == result["correct"]:
        as_reported = ", as in summary.json"
    else:
        as_reported = f", {reported['correct']:,} in summary.json"
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
    if compiled is not None:
        facts.append(
            (
                "compiled",
                f"{compiled['accuracy']:.2%} ({compiled['correct']:,} of {images:,}); same class as the exact path in "
                f"{compiled['same_class']:,}, logits differ by at most {compiled['largest_logit_difference']:.1e}",
            )
        )
    wide = max(len(name) for name, _ in facts) + 2
    rows = [(str(row["depth"]), f"{row['images']:,}", f"{row['accuracy']:.2%}") for row in result["accuracy_by_depth"]]
    by_depth = table(("depth", "images", "accuracy"), rows, (True, True, True))
    return "\n".join([*(f"{name:<{wide}}{text}" for name, text in facts), "", by_depth])


def _open(options: Evaluate):
    """The trained model, and the split to measure it on."""
    if options.batch_size is not None and options.batch_size < 1:
        raise UserError(f"--batch-size: got {options.batch_size}, expected at least 1")
    open_folder(options.run)  # before jax is imported, which takes seconds

    from train import data
    from train.trained import open_run

    trained = open_run(options.run)
    config = trained.config
    sound = {
        "data": isinstance(config.data, str) and config.data != "",
        "data_dir": config.data_dir is None or isinstance(config.data_dir, str | Path),
        "evaluate_on": config.evaluate_on in ("test", "validation"),
        "batch_size": type(config.batch_size) is int and 1 <= config.batch_size <= 2**20,
    }
    for field, ok in sound.items():
        if not ok:
            raise UserError(
                f"{printable(options.run)}: its configuration is damaged, {field} is {getattr(config, field)!r}"
            )
    data_dir = options.data_dir or config.data_dir
    dataset = data.load(
        config.data,
        None if data_dir is None else Path(data_dir),
        options.evaluate_on or config.evaluate_on,
        image_size=config.image_size,
        validation_share=config.validation_share,
    )
    model = trained.about["model"]
    found = {"num_classes": dataset.num_classes, "in_channels": dataset.test.images.shape[-1]}
    for name, value in found.items():
        if model[name] != value:
            raise UserError(
                f"{printable(config.data)} has {name} = {value}, the model of {printable(options.run)} {model[name]}: "
                "not the data set that it was trained on"
            )
    return trained, dataset.test


def _reported(folder: Path, evaluated_on: str, images: int) -> dict[str, Any] | None:
    """What the run's summary says of the same images; ``None`` without a summary, or of other images."""
    with contextlib.suppress(UserError):
        summary = read_json(folder / "summary.json")
        correct, loss = number(summary, "test_correct"), number(summary, "test_loss")
        if summary.get("evaluated_on") == evaluated_on and number(summary, "test_images") == images and correct:
            return {"correct": int(correct), "accuracy": correct / images, "loss": loss}
    return None
