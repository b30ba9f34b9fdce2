"""``python -m bench.zoo CHECKOUT``: the image models of jax-ml/bonsai, puppetized by default, on 64×64 images.

CHECKOUT is a copy of that repository, whose models are imported from it. Of each model: kernel parameters before and
after, how many depths there are, seconds to the first logits of two images, whether a gradient step, a prediction and
an export run, and how far the puppet with the module's own kernels is from the module.
"""

import argparse
import importlib
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import puppet_jax as pj
from bench import machine, results_file

SHAPE = (64, 64, 3)


def without_streams(module: nnx.Module, images: jax.Array, rngs: nnx.Rngs) -> jax.Array:
    """How ConvNeXt is called in evaluation mode."""
    del rngs
    return module(images, rngs=None)


# The package, what makes a model of ten classes of it, and how to puppetize that.
GROUP = {"batch_norm": "group"}
MODELS: dict[str, tuple[str, Callable, dict]] = {
    "ResNet-50": ("resnet", lambda m, rngs: m.ResNet(m.ModelConfig.resnet50(10), rngs=rngs), GROUP),
    "DenseNet-121": ("densenet121", lambda m, rngs: m.DenseNet(m.ModelConfig(10, _DENSE, 32), rngs=rngs), GROUP),
    "VGG-19": ("vgg19", lambda m, rngs: m.VGG(m.ModelConfig(10, [2, 2, 4, 4, 4], _VGG_WIDTHS), rngs=rngs), {}),
    "ConvNeXt-T": (
        "convnext",
        lambda m, rngs: m.ConvNeXt(m.ModelConfig.convnext_tiny_224(num_classes=10), rngs=rngs),
        {"apply": without_streams},
    ),
    "EfficientNet-B0": ("efficientnet", lambda m, rngs: m.EfficientNet(m.ModelConfig.b0(10), rngs=rngs), GROUP),
    "U-Net": ("unet", lambda m, rngs: m.UNet(m.ModelConfig(in_channels=3), rngs=rngs), {}),
}
_DENSE, _VGG_WIDTHS = [6, 12, 24, 16], [64, 128, 256, 512, 512, 512]  # VGG: the last its classifier's


def make(name: str) -> tuple[nnx.Module, dict[str, Any]]:
    package, build, options = MODELS[name]
    return build(importlib.import_module(f"bonsai.models.{package}.modeling"), nnx.Rngs(0)), options


def measure(name: str) -> dict[str, Any]:
    images = np.random.default_rng(0).integers(0, 256, (2, *SHAPE), dtype=np.uint8)
    module, options = make(name)
    began = time.perf_counter()
    model = pj.puppetize(module, image_shape=SHAPE, rngs=nnx.Rngs(1), **options)
    puppetized = time.perf_counter() - began
    jax.block_until_ready(model(images))
    line: dict[str, Any] = {"model": name, "puppetize_seconds": puppetized}
    line["first_answer_seconds"] = time.perf_counter() - began
    print(f"{name}: first answer after {line['first_answer_seconds']:.1f} s", file=sys.stderr, flush=True)
    counts = pj.summary(model)
    line |= {"kernels_before": counts.static_kernels, "kernels_after": counts.generator}
    line |= {"compression": counts.kernel_compression, "depths": model.max_depth, "blocks": len(model.puppet.blocks)}
    line |= {key: _tried(run, model, images) for key, run in CHECKS.items()}
    del model
    line["own_kernels_off_by"] = _tried(_own_kernels, name, images)
    return line


def _gradient_step(model: pj.PuppetCNN, images: np.ndarray) -> float:
    optimiser = nnx.Optimizer(model, optax.sgd(1e-3), wrt=nnx.Param)
    loss, gradient = nnx.jit(nnx.value_and_grad(lambda model: jnp.mean(model(images) ** 2)))(model)
    optimiser.update(model, gradient)
    assert np.isfinite(float(loss))
    return float(loss)


def _predict(model: pj.PuppetCNN, images: np.ndarray) -> float:
    model.eval()
    return _off(pj.compile_predict(model, complexities=(6.5, 8.0))(images).logits, model(images))


def _export(model: pj.PuppetCNN, images: np.ndarray) -> float:
    model.eval()
    predict = pj.compile_predict(model, complexities=(6.5, 8.0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        pj.export(predict, path, image_shape=SHAPE, platforms=("cpu",), store="puppeteer")
        return _off(pj.load(path)(images).logits, predict(images).logits)


def _off(found: jax.Array, expected: jax.Array) -> float:
    return float(jnp.max(jnp.abs(found - expected)) / jnp.max(jnp.abs(expected)))


CHECKS: dict[str, Callable] = {
    "gradient_step_loss": _gradient_step,
    "predict_off_by": _predict,
    "export_off_by": _export,
}


def _own_kernels(name: str, images: np.ndarray) -> float:
    module, options = make(name)
    module.eval()
    norms = {"batch_norm": "running"} if "batch_norm" in options else {}
    stored = lambda shapes, rngs: pj.StoredPuppeteer(shapes, standardise=False, rngs=rngs)  # noqa: E731
    full = pj.Measure(depth="full")
    model = pj.puppetize(module, stored, image_shape=SHAPE, rngs=nnx.Rngs(1), measurement=full, **{**options, **norms})
    for path, kernel in zip(model.puppet.names, model.puppeteer.kernels, strict=True):
        conv: Any = module
        for key in path.split("."):
            conv = conv[int(key)] if key.isdigit() else getattr(conv, key)
        kernel.set_value(jnp.transpose(conv.kernel[...], (3, 2, 0, 1)))
    apply = options.get("apply", lambda module, images, rngs: module(images))
    expected = nnx.jit(lambda module, images: apply(module, images, None))(module, images / np.float32(255))
    return _off(model(images), expected)


def _tried(run: Callable, *arguments: Any) -> float | str:
    try:
        return run(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="a copy of jax-ml/bonsai")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=tuple(MODELS))
    parser.add_argument("--output", type=Path, default=results_file.FOLDER / "zoo.json")
    parser.add_argument("--one", choices=MODELS, help="measure this one here, and print what was found")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    if options.one:
        sys.path.insert(0, str(options.checkout))
        print(json.dumps(measure(options.one)))
        return 0
    result = {**machine.describe(), "command": f"python -m bench.zoo CHECKOUT --models {' '.join(options.models)}"}
    result["models"] = []
    for name in options.models:  # a process each: its own memory, and nothing compiled before
        command = [sys.executable, "-m", "bench.zoo", str(options.checkout), "--one", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        line = json.loads(done.stdout) if done.returncode == 0 else {"model": name, "failed": done.returncode}
        print(json.dumps(line), file=sys.stderr, flush=True)
        result["models"].append(line)
        results_file.write(options.output, result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
