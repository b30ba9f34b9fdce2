"""``python -m bench accuracy precision RUN``: what baked kernels and bfloat16 change in a trained model's answers."""

import dataclasses
import math
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from bench import machine, results_file
from bench.table import markdown

TARGET = 1e-4
_BATCH = 250


@dataclasses.dataclass(frozen=True)
class Precision:
    """Compare compile_predict, in float32 and bfloat16, with the exact model on the images a run was evaluated on."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder that python -m train left."""
    images: int | None = None
    """Only the first so many images; none: all."""
    output: Path | None = None
    """JSON to write; none: bench/results/precision_DATA.json."""


def run(options: Precision) -> int:
    """Measure, write, print. 0, or 2 if the run cannot be read."""
    import puppet_jax as pj
    from train import data
    from train.errors import UserError
    from train.runs import parameters

    try:
        model, config = parameters.restore(options.run / "params.safetensors")
        split = data.load(config.data, config.data_dir, config.evaluate_on).test
    except UserError as error:
        print(f"error: {error}")
        return 2
    images, labels = split.images[: options.images], split.labels[: options.images]
    exact = in_batches(model, images)
    result = {
        **machine.describe(),
        "what": f"{config.data}, {config.evaluate_on} images, {config.preset}, {config.puppeteer}, "
        f"{config.epochs} epochs of training",
        "images": len(images),
        "accuracy_exact": _accuracy(exact, labels),
        "rows": [],
    }
    for dtype in ("float32", "bfloat16"):
        predict = pj.compile_predict(model, dtype=None if dtype == "float32" else dtype)
        logits = in_batches(lambda images, predict=predict: predict(images).logits, images)
        result["rows"].append({"dtype": dtype, **compare(logits, exact), "accuracy": _accuracy(logits, labels)})
    reached = result["rows"][0]["error_of_batch"]
    result["target"] = {"error_of_batch": TARGET, "reached": reached <= TARGET}
    output = options.output or results_file.FOLDER / f"precision_{config.data}.json"
    results_file.finish(output, result, report(result))
    return 0


def in_batches(function, images: np.ndarray) -> np.ndarray:
    """Logits (N, classes) of images (N, H, W, C)."""
    batches = (images[i : i + _BATCH] for i in range(0, len(images), _BATCH))
    return np.concatenate([np.asarray(function(batch)) for batch in batches])


def compare(found: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """How far logits (N, classes) are from the exact ones, and how often they name another class.

    ``error_of_batch`` is max |Δ| / max |exact| over all images; ``error_of_image`` the same of one image, the median
    and the greatest.
    """
    difference = np.abs(found - exact)
    of_image = difference.max(axis=1) / np.abs(exact).max(axis=1)
    return {
        "error_of_batch": float(difference.max() / np.abs(exact).max()),
        "error_of_image_median": float(np.median(of_image)),
        "error_of_image_greatest": float(of_image.max()),
        "other_class": float(np.mean(found.argmax(axis=1) != exact.argmax(axis=1))),
    }


def report(result: dict) -> str:
    """A result as Markdown."""
    head = ("compute type", "accuracy", "another class", "error, all images", "of an image: median", "greatest")
    rows = [
        (
            row["dtype"],
            f"{row['accuracy']:.2%} (exact {result['accuracy_exact']:.2%})",
            f"{row['other_class']:.2%}",
            *(f"{row[k]:.1e}" for k in ("error_of_batch", "error_of_image_median", "error_of_image_greatest")),
        )
        for row in result["rows"]
    ]
    return f"{result['what']}, {result['images']:,} images\n\n{markdown(head, rows)}"


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    if not math.isfinite(float(np.abs(logits).max())):
        return math.nan
    return float(np.mean(logits.argmax(axis=1) == labels))
