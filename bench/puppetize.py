"""``python -m bench speed puppetize``: somebody else's CNNs as puppets: speed, stored parameters, what they learn."""

import dataclasses
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
from flax import nnx

import puppet_jax as pj
from bench import cifar, machine, nets, results_file, short_training, target, timing
from bench.table import markdown
from train import data
from train.errors import UserError

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
BUDGET_S = 0.4
"""Of a turn of one contender."""


@dataclasses.dataclass(frozen=True)
class Puppetize:
    """Compare CNNs in plain Flax NNX with what ``pj.puppetize`` makes of them, the puppeteer continuous."""

    rounds: int = 7
    """Turns of every contender in the measurement of speed."""
    batch: int = 64
    """Images of a call in the measurement of speed."""
    nets: tuple[str, ...] = tuple(NETS)
    """Which CNNs."""
    datasets: tuple[str, ...] = ("digits", "cifar10")
    """What they are trained on; none: they are not."""
    data_dir: Path | None = None
    """Where TensorFlow Datasets keeps cifar10 (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets)."""
    digits_epochs: int = 20
    """Passes over digits."""
    images: int = 20_000
    """Training images of another data set, one pass."""
    seed: int = 0
    """Of parameters, order and augmentation."""
    output: Path | None = None
    """JSON to write; none: bench/results/puppetize.json. Trainings that it holds, of the same options, revision and
    processor, are not done again."""


def run(options: Puppetize) -> int:
    """Measure, write after each part, print. 0; 2 for an option that is none."""
    if unknown := [name for name in options.nets if name not in NETS]:
        print(f"error: --nets: got {', '.join(unknown)}, expected some of {', '.join(NETS)}", file=sys.stderr)
        return 2
    for name in ("rounds", "batch", "digits_epochs", "images"):
        if (got := getattr(options, name)) < 1:
            print(f"error: --{name.replace('_', '-')}: got {got}, expected at least 1", file=sys.stderr)
            return 2
    output = options.output or results_file.FOLDER / "puppetize.json"
    asked = {name: getattr(options, name) for name in ("digits_epochs", "images", "seed")}
    result = {**machine.describe(), "rounds": options.rounds, "batch": options.batch, "options": asked}
    result |= {"parameters": {}, "speed": [], "rows": [], "accuracy": [], "left_out": {}}
    known = _known(output, result)
    for name in options.nets:
        model = _puppet(name, "group", 3, (cifar.SIZE, cifar.SIZE), pj.Measure(), options.seed)
        result["parameters"][name] = {
            key: getattr(pj.summary(model), key) for key in ("generator", "static_kernels", "total", "static_twin")
        }
        result["speed"] += _speed(name, options)
        result["rows"] = [_row(line) for line in result["speed"] if line["depth"] == "full"]
        results_file.write(output, result)
    for dataset_name in options.datasets:
        try:
            dataset = data.load(dataset_name, options.data_dir, "test")
        except UserError as error:
            result["left_out"][dataset_name] = str(error)
            print(f"{dataset_name} left out: {error}", file=sys.stderr)
            continue
        for name in options.nets:
            for kernels in ("original", "continuous"):
                key = dataset_name, name, kernels
                result["accuracy"].append(known.get(key) or _learn(*key, dataset, options))
                results_file.write(output, result)
    results_file.finish(output, result, _told(result))
    return 0


def _puppet(name: str, batch_norm: str, channels: int, size, measurement: pj.Measure, seed: int) -> pj.PuppetCNN:
    net = NETS[name](channels, nnx.Rngs(seed))
    return pj.puppetize(
        net,
        image_shape=(*size, channels),
        batch_norm=batch_norm,
        puppeteer_options=PUPPETEERS.get(name),
        measurement=measurement,
        rngs=nnx.Rngs(seed + 1),
    )


def _speed(name: str, options: Puppetize) -> list[dict]:
    """A line for each normalisation at full depth, and one at the depths of the images."""
    images = cifar.images(cifar.complexities(options.batch), jax.jit(pj.complexity))
    original = NETS[name](3, nnx.Rngs(options.seed))
    original.eval()
    graphdef, state = nnx.split(original)
    forward = jax.jit(lambda state, images: nnx.merge(graphdef, state)(images.astype(np.float32) / 255.0))
    calls: dict[tuple[str, str], Callable] = {("", ""): lambda: forward(state, images)}
    for batch_norm, depth in (("running", "full"), ("group", "full"), ("running", "complexity")):
        model = _puppet(name, batch_norm, 3, images.shape[1:3], pj.Measure(depth=depth), options.seed)
        predict = pj.compile_predict(model)
        calls[batch_norm, depth] = lambda predict=predict: predict(images).logits
    for call in calls.values():  # compiled, and the threads awake
        jax.block_until_ready([call(), call()])
    waiting = {key: lambda call=call: jax.block_until_ready(call()) for key, call in calls.items()}
    turns = {key: partial(timing.seconds_of, call, BUDGET_S, least=3) for key, call in waiting.items()}
    say = lambda _: print(f"{name}: a round of {options.rounds} done", file=sys.stderr, flush=True)  # noqa: E731
    seconds = timing.in_turns(turns, options.rounds, say)
    base = seconds.pop(("", ""))
    return [
        {
            "net": name,
            "batch_norm": batch_norm,
            "depth": depth,
            "seconds": of_puppet,
            "original_seconds": base,
            "over_original": dataclasses.asdict(timing.ratio(of_puppet, base)),
        }
        for (batch_norm, depth), of_puppet in seconds.items()
    ]


def _row(line: dict) -> dict:
    what = f"share of the time of: the CNN itself, {line['net']}, batch_norm {line['batch_norm']}"
    return target.row(what, line["over_original"]["rounds"], "<=", TARGET)


def _learn(dataset_name: str, name: str, kernels: str, dataset: data.Dataset, options: Puppetize) -> dict:
    """Train one net, as it is or puppetized, and tell how well it does on the test images."""
    split = dataset.train
    digits = dataset_name == "digits"
    if not digits and len(split) > options.images:
        chosen = np.sort(np.random.default_rng(options.seed).permutation(len(split))[: options.images])
        split = dataclasses.replace(split, images=split.images[chosen], labels=split.labels[chosen])
    height, width, channels = split.images.shape[1:]
    if kernels == "original":
        model = NETS[name](channels, nnx.Rngs(options.seed))
        call = lambda net, images: net(images / np.float32(255))  # noqa: E731
        parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    else:
        model = _puppet(name, "group", channels, (height, width), pj.Measure(), options.seed)
        parameters = pj.summary(model).total
        call = lambda net, images: net(images)  # noqa: E731
    recipe = {
        "epochs": options.digits_epochs if digits else 1,
        "batch_size": 32 if digits else 64,
        "learning_rate": 5e-3 if digits else 1e-2,
        "augmentation": "crop" if digits else "flip",
    }
    trained, seconds = short_training.train(model, call, split, seed=options.seed, **recipe)
    found = short_training.accuracy(trained, call, dataset.test)
    print(f"{dataset_name}, {name}, {kernels}: {found:.1%} ({seconds:.0f} s)", file=sys.stderr, flush=True)
    line = {"data": dataset_name, "net": name, "kernels": kernels, "accuracy": found, "parameters": parameters}
    return {**line, **recipe, "train_images": len(split), "test_images": len(dataset.test), "seconds": seconds}


def _known(output: Path, result: dict) -> dict[tuple[str, str, str], dict]:
    """Trainings of an earlier, interrupted run of the same options, revision and kind of machine."""
    try:
        before = json.loads(output.read_text(encoding="utf-8"))
        if any(before[key] != result[key] for key in ("options", "revision", "versions")):
            return {}
        if before["machine"]["processor"] != result["machine"]["processor"]:
            return {}
        return {(line["data"], line["net"], line["kernels"]): line for line in before["accuracy"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _told(result: dict) -> str:
    counts = [(name, *(f"{count:,}" for count in found.values())) for name, found in result["parameters"].items()]
    learned = [
        (line["data"], line["net"], line["kernels"], f"{line['parameters']:,}", f"{line['accuracy']:.1%}")
        for line in result["accuracy"]
    ]
    counted = ("net", "stored for kernels", "before", "in all", "before")
    last = ("data", "net", "kernels", "parameters", "test accuracy")
    return "\n\n".join([target.table(result["rows"]), markdown(counted, counts), markdown(last, learned)])
