"""``python -m bench speed puppetize``: somebody else's CNNs as puppets. What they learn is in the study of digits."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import puppet_jax as pj
from bench import cifar, nets, results_file, target, timing
from bench.speed import Options

FILE = "puppetize.json"
NETS: dict[str, Callable] = {"ResNet-20": nets.resnet20, "MobileNet": nets.mobilenet}
# About a tenth of ResNet-20's kernel parameters; MobileNet's, depthwise and pointwise, are few to begin with.
PUPPETEERS = {"ResNet-20": {"basis": 80, "hidden": 40}, "MobileNet": {"rank": 1, "basis": 24, "hidden": 16}}
TARGETS = {"predict": 1.3, "train": 1.0}
BUDGET_S = 0.4  # of a turn of one contender


def measure(options: Options, result: dict, path: Path | None) -> None:
    names = ("MobileNet",) if options.quick else tuple(NETS)
    batch = 2 if options.quick else 64
    result |= {"batch": batch, "parameters": {}, "speed": [], "rows": []}
    for name in names:
        counts = pj.summary(_puppet(name, "group", pj.Measure()))
        kinds = ("generator", "static_kernels", "total", "static_twin")
        result["parameters"][name] = {kind: getattr(counts, kind) for kind in kinds}
        lines = _speed(name, batch, options.rounds)
        result["speed"] += lines
        for line in lines:
            if line["depth"] == "full":
                what = f"{line['part']}, share of the time of: the CNN itself, {name}, batch_norm {line['batch_norm']}"
                result["rows"].append(target.row(what, line["over_original"], "<=", TARGETS[line["part"]]))
        results_file.write(path, result)


def _puppet(name: str, batch_norm: str, measurement: pj.Measure) -> pj.PuppetCNN:
    return pj.puppetize(
        NETS[name](rngs=nnx.Rngs(0)),
        image_shape=(cifar.SIZE, cifar.SIZE, 3),
        batch_norm=batch_norm,
        puppeteer_options=PUPPETEERS.get(name),
        measurement=measurement,
        rngs=nnx.Rngs(100),
    )


def _speed(name: str, batch: int, rounds: int) -> list[dict]:
    """A line for each normalisation at full depth, one at the depths of the images, and one of a training step."""
    images = cifar.images(cifar.complexities(batch), jax.jit(pj.complexity))
    original, unit = NETS[name](rngs=nnx.Rngs(0)), images.astype(np.float32) / 255.0
    calls: dict[tuple[str, ...], Callable] = {("train", "", ""): _gradient(original, unit)}
    calls["train", "group", "full"] = _gradient(_puppet(name, "group", pj.Measure(depth="full")), images)
    original.eval()
    graphdef, state = nnx.split(original)
    forward = jax.jit(lambda state, images: nnx.merge(graphdef, state)(images.astype(np.float32) / 255.0))
    calls["predict", "", ""] = lambda: forward(state, images)
    for batch_norm, depth in (("running", "full"), ("group", "full"), ("running", "complexity")):
        predict = pj.compile_predict(_puppet(name, batch_norm, pj.Measure(depth=depth)))
        calls["predict", batch_norm, depth] = lambda predict=predict: predict(images).logits
    for call in calls.values():  # compiled, and the threads awake
        jax.block_until_ready([call(), call()])
    waiting = {key: lambda call=call: jax.block_until_ready(call()) for key, call in calls.items()}
    turns = {key: partial(timing.seconds_of, call, BUDGET_S, least=3) for key, call in waiting.items()}
    seconds, lines = timing.in_turns(turns, rounds), []
    for (part, batch_norm, depth), of_puppet in seconds.items():
        if batch_norm:
            base = seconds[part, "", ""]
            times = {"seconds": of_puppet, "original_seconds": base, "over_original": target.ratio(of_puppet, base)}
            lines.append({"net": name, "part": part, "batch_norm": batch_norm, "depth": depth, **times})
    return lines


def _gradient(model: nnx.Module, images: np.ndarray) -> Callable:
    """The gradient of all parameters, in training, compiled."""
    model.train()
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    run = lambda params: nnx.merge(graphdef, params, rest, copy=True)(images)  # noqa: E731
    gradient = jax.jit(jax.grad(lambda params: jnp.mean(run(params) ** 2)))
    return lambda: gradient(params)
