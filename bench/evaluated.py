"""A trained model's accuracy with its numbers stored in fewer bits, computed with in bfloat16, at other depths; without
arguments, as ``python -m bench.evaluated``, that of the pretrained models, for bench/results."""

import json
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import puppet_jax as pj
from bench import machine, results_file
from puppet_jax import _stored_dtype
from puppet_jax._pretrained import assign, flat
from puppet_jax._stored_dtype import SCALES
from train.commands import evaluate
from train.data import padded_batches
from train.devices import BATCH
from train.steps import evaluation
from train.steps.exits import at_exits, dial
from train.steps.step import make_eval_step


def measured(run: Path | str) -> dict:
    """Of a run, on the images that it was evaluated on: ``bits``, for each number of them bytes and accuracy; the
    tables of its exits; ``bfloat16``, the accuracy computed in it, but not of puppetized models."""
    trained, split, _ = evaluate.with_images(evaluate.Evaluate(Path(run)))
    model, config = trained.model, trained.config
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()[:1]), (BATCH,))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    arrays, found = flat(params), {"bits": {}}

    def accuracy(step):
        now = nnx.state(model, nnx.Param)
        _, taken = evaluation.evaluate(step, now, rest, split, config.batch_size, mesh)
        return float((taken == split.labels).mean(dtype=float))

    step = make_eval_step(graphdef, mesh)
    for bits in (32, 8, 4):
        stored = {name: quantised(array, bits) for name, array in arrays.items()}
        assign(model, {name: array for name, (array, _) in stored.items()})
        found["bits"][str(bits)] = {"bytes": sum(size for _, size in stored.values()), "accuracy": accuracy(step)}
    assign(model, arrays)
    if model.puppet.exits:
        found |= dial(model, at_exits(model, split, config.batch_size, mesh), split)
    try:
        model.puppet.compute_in(jnp.bfloat16)
    except ValueError:  # its author chose the types
        return found
    return {**found, "bfloat16": accuracy(make_eval_step(nnx.graphdef(model), mesh))}


def quantised(array: np.ndarray, bits: int) -> tuple[np.ndarray, int]:
    """A float32 array as a release gives it back, and the bytes that it takes; arrays of one axis in float16."""
    if bits == 32:
        return array, array.nbytes
    if array.ndim < 2:
        return array.astype(np.float16).astype(np.float32), 2 * array.size
    stored = dict(zip(("a", f"a{SCALES}"), _stored_dtype.quantised(array, bits), strict=True))
    return _stored_dtype.unpack(stored)["a"], math.ceil(array.size * bits / 8) + 2 * len(array)


def mirrored(name: str) -> float:
    """A pretrained model's accuracy where the logits of an image and of its mirror image are added."""
    trained, split, _ = evaluate.with_images(evaluate.Evaluate(Path(name)))
    predict = pj.compile_predict(trained.model)
    sums = [predict(each).logits + predict(each[:, :, ::-1]).logits for each in padded_batches(split.images, 256)]
    return float(np.mean(np.concatenate(sums)[: len(split)].argmax(-1) == split.labels))


if __name__ == "__main__" and not sys.argv[1:]:
    models = {
        name: {"bytes": pj.pretrained_info(name)["bytes"], "mirrored": mirrored(name), **measured(name)}
        for name in pj.list_pretrained()
    }
    about = {**machine.describe(), "command": "python -m bench.evaluated", "models": models}
    results_file.write(results_file.FOLDER / "pretrained.json", about)
elif __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1])))
