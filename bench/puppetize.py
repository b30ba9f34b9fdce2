"""``python -m bench speed puppetize``: somebody else's CNNs as puppets: speed, stored parameters, what they learn."""

import dataclasses
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
from flax import nnx

import puppet_jax as pj
from bench import cifar, nets, results_file, short_training, target, timing
from bench.command import Options
from train import data

FILE = "puppetize.json"
NETS: dict[str, Callable] = {
    "ResNet-20": lambda channels, rngs: nets.ResNet(channels=channels, rngs=rngs),
    "MobileNet": lambda channels, rngs: nets.MobileNet(width=16, channels=channels, rngs=rngs),
}
# About a tenth of ResNet-20's kernel parameters; MobileNet's, depthwise and pointwise, are few to begin with.
PUPPETEERS = {
    "ResNet-20": {"channels": "low_rank", "rank": 2, "basis": 80, "hidden": 40},
    "MobileNet": {"channels": "low_rank", "rank": 1, "basis": 24, "hidden": 16},
}
TARGET = 1.3
BUDGET_S = 0.4  # of a turn of one contender
RECIPE = {"epochs": 20, "batch_size": 32, "learning_rate": 5e-3, "augmentation": "crop"}
SEEDS = (0, 1, 2)


def measure(options: Options, result: dict, path: Path | None) -> None:
    names = ("MobileNet",) if options.quick else tuple(NETS)
    batch = 2 if options.quick else 64
    result |= {"batch": batch, "parameters": {}, "speed": [], "rows": [], "accuracy": []}
    for name in names:
        counts = pj.summary(_puppet(name, "group", 3, (cifar.SIZE, cifar.SIZE), pj.Measure()))
        kinds = ("generator", "static_kernels", "total", "static_twin")
        result["parameters"][name] = {kind: getattr(counts, kind) for kind in kinds}
        lines = _speed(name, batch, options.rounds)
        result["speed"] += lines
        result["rows"] += [_row(line) for line in lines if line["depth"] == "full"]
        results_file.write(path, result)
    digits = data.load("digits", None, "test")
    if options.quick:
        few = dataclasses.replace(digits.train, images=digits.train.images[:64], labels=digits.train.labels[:64])
        digits = dataclasses.replace(digits, train=few)
    recipe = {**RECIPE, "epochs": 1} if options.quick else RECIPE
    for name in names:
        for kernels in ("original", "continuous"):
            seeds = SEEDS[:1] if options.quick else SEEDS
            each = [_learn(name, kernels, digits, {**recipe, "seed": seed}) for seed in seeds]
            accuracies = [accuracy for accuracy, _ in each]
            line = {"data": "digits", "net": name, "kernels": kernels, "parameters": each[0][1], **recipe}
            line |= {"train_images": len(digits.train), "test_images": len(digits.test), "seeds": seeds}
            result["accuracy"].append(line | {"accuracies": accuracies, "accuracy": statistics.fmean(accuracies)})
            print(result["accuracy"][-1], file=sys.stderr, flush=True)
            results_file.write(path, result)


def _puppet(name: str, batch_norm: str, channels: int, size, measurement: pj.Measure, seed: int = 0) -> pj.PuppetCNN:
    return pj.puppetize(
        NETS[name](channels, nnx.Rngs(seed)),
        image_shape=(*size, channels),
        batch_norm=batch_norm,
        puppeteer_options=PUPPETEERS.get(name),
        measurement=measurement,
        rngs=nnx.Rngs(seed + 100),
    )


def _speed(name: str, batch: int, rounds: int) -> list[dict]:
    """A line for each normalisation at full depth, and one at the depths of the images."""
    images = cifar.images(cifar.complexities(batch), jax.jit(pj.complexity))
    original = NETS[name](3, nnx.Rngs(0))
    original.eval()
    graphdef, state = nnx.split(original)
    forward = jax.jit(lambda state, images: nnx.merge(graphdef, state)(images.astype(np.float32) / 255.0))
    calls: dict[tuple[str, str], Callable] = {("", ""): lambda: forward(state, images)}
    for batch_norm, depth in (("running", "full"), ("group", "full"), ("running", "complexity")):
        model = _puppet(name, batch_norm, 3, images.shape[1:3], pj.Measure(depth=depth))
        predict = pj.compile_predict(model)
        calls[batch_norm, depth] = lambda predict=predict: predict(images).logits
    for call in calls.values():  # compiled, and the threads awake
        jax.block_until_ready([call(), call()])
    waiting = {key: lambda call=call: jax.block_until_ready(call()) for key, call in calls.items()}
    turns = {key: partial(timing.seconds_of, call, BUDGET_S, least=3) for key, call in waiting.items()}
    seconds = timing.in_turns(turns, rounds)
    base = seconds.pop(("", ""))
    lines = []
    for (batch_norm, depth), of_puppet in seconds.items():
        times = {"seconds": of_puppet, "original_seconds": base, "over_original": target.ratio(of_puppet, base)}
        lines.append({"net": name, "batch_norm": batch_norm, "depth": depth, **times})
    return lines


def _row(line: dict) -> dict:
    what = f"share of the time of: the CNN itself, {line['net']}, batch_norm {line['batch_norm']}"
    return target.row(what, line["over_original"], "<=", TARGET)


def _learn(name: str, kernels: str, dataset: data.Dataset, recipe: dict) -> tuple[float, int]:
    """Train one net, as it is or puppetized: the share of test images that it gets right, and its parameters."""
    split, seed = dataset.train, recipe["seed"]
    height, width, channels = split.images.shape[1:]
    if kernels == "original":
        model = NETS[name](channels, nnx.Rngs(seed))
        call = lambda net, images: net(images / np.float32(255))  # noqa: E731
        parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    else:
        model = _puppet(name, "group", channels, (height, width), pj.Measure(), seed)
        call = lambda net, images: net(images)  # noqa: E731
        parameters = pj.summary(model).total
    trained, _ = short_training.train(model, call, split, **recipe)
    return short_training.accuracy(trained, call, dataset.test), parameters
