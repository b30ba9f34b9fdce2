"""``python -m bench accuracy --precision RUN``: what baked kernels and bfloat16 change in a trained model's answers."""

from pathlib import Path

import numpy as np

from bench import machine, results_file
from bench.table import markdown

TARGET = 1e-4
_BATCH = 250


def measure(run: Path, output: Path) -> None:
    """Compare compile_predict, in float32 and bfloat16, with the exact model on the images a run was evaluated on.

    Raises:
        UserError: the run or its data cannot be read.
    """
    import jax
    from flax import nnx

    import puppet_jax as pj
    from train import data
    from train.runs import parameters

    model, config = parameters.restore(run / "params.safetensors")
    split = data.load(config.data, config.data_dir, config.evaluate_on).test
    graphdef, state = nnx.split(model)
    run_exact = jax.jit(lambda state, images: nnx.merge(graphdef, state)(images))
    exact = in_batches(lambda images: run_exact(state, images), split.images)
    about = {name: getattr(config, name) for name in ("data", "evaluate_on", "preset", "puppeteer", "epochs")}
    result = {**machine.describe(), **about, "images": len(exact), "accuracy_exact": _accuracy(exact, split.labels)}
    result["rows"] = []
    for dtype in ("float32", "bfloat16"):
        predict = pj.compile_predict(model, dtype=None if dtype == "float32" else dtype)
        logits = in_batches(lambda images, predict=predict: predict(images).logits, split.images)
        found = {**compare(logits, exact), "accuracy": _accuracy(logits, split.labels)}
        result["rows"].append({"dtype": dtype, **found})
    result["target"] = {"error_of_batch": TARGET, "reached": result["rows"][0]["error_of_batch"] <= TARGET}
    results_file.write(output / f"precision_{config.data}.json", result)
    head = result["rows"][0].keys()
    print(markdown(list(head), [[row[name] for name in head] for row in result["rows"]]))


def in_batches(function, images: np.ndarray) -> np.ndarray:
    """Logits (N, classes) of images (N, H, W, C); the last batch is filled up, as another size were another program."""
    count = -(-len(images) // _BATCH)
    filled = np.resize(images, (count, _BATCH, *images.shape[1:]))
    return np.concatenate([np.asarray(function(batch)) for batch in filled])[: len(images)]


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


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(logits.argmax(axis=1) == labels))
