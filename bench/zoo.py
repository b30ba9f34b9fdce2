"""``python -m bench.zoo CHECKOUT [MODEL …]``: jax-ml/bonsai's image models, puppetized by default, on 64×64 images.

CHECKOUT is a copy of that repository, whose models are imported from it. Of each model: kernel parameters before and
after, how many depths there are, seconds to the first logits of two images, whether a gradient step, a prediction and
an export run, and how far the puppet with the module's own kernels is from the module.
"""

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


def measure(name: str) -> dict[str, Any]:
    images = np.random.default_rng(0).integers(0, 256, (2, *SHAPE), dtype=np.uint8)
    package, build, options = MODELS[name]
    make = lambda: build(importlib.import_module(f"bonsai.models.{package}.modeling"), nnx.Rngs(0))  # noqa: E731
    began = time.perf_counter()
    model = pj.puppetize(make(), image_shape=SHAPE, rngs=nnx.Rngs(1), **options)
    jax.block_until_ready(model(images))
    line: dict[str, Any] = {"model": name, "first_answer_seconds": time.perf_counter() - began}
    counts = pj.summary(model)
    line |= {"kernels_before": counts.static_kernels, "kernels_after": counts.generator}
    line |= {"compression": counts.kernel_compression, "depths": model.max_depth, "blocks": len(model.puppet.blocks)}
    loss = nnx.jit(nnx.value_and_grad(lambda model: jnp.mean(model(images) ** 2)))
    line["gradient_step"] = _tried(lambda: all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(loss(model))))
    model.eval()
    predict = pj.compile_predict(model, complexities=(6.5, 8.0))
    line["predict_off_by"] = _tried(lambda: _off(predict(images).logits, model(images)))
    line["export_off_by"] = _tried(lambda: _export(predict, images))
    line["own_kernels_off_by"] = _tried(lambda: _own_kernels(make(), options, images))
    return line


def _export(predict: Callable, images: np.ndarray) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        pj.export(predict, path, image_shape=SHAPE, platforms=("cpu",))
        return _off(pj.load(path)(images).logits, predict(images).logits)


def _off(found: jax.Array, expected: jax.Array) -> float:
    return float(jnp.max(jnp.abs(found - expected)) / jnp.max(jnp.abs(expected)))


def _own_kernels(module: nnx.Module, options: dict[str, Any], images: np.ndarray) -> float:
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


def _tried(run: Callable[[], Any]) -> Any:
    try:
        return run()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"


def main(checkout: str, *names: str) -> None:
    result = {**machine.describe(), "command": f"python -m bench.zoo CHECKOUT {' '.join(names)}".strip(), "models": []}
    for name in names or tuple(MODELS):  # a process each: its own memory, and nothing compiled before
        command = [sys.executable, "-m", "bench.zoo", "--one", checkout, name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        line = json.loads(done.stdout) if done.returncode == 0 else {"model": name, "failed": done.returncode}
        print(json.dumps(line), file=sys.stderr, flush=True)
        result["models"].append(line)
        results_file.write(results_file.FOLDER / "zoo.json", result)


if __name__ == "__main__" and sys.argv[1:2] == ["--one"]:
    logging.disable(logging.WARNING)
    sys.path.insert(0, sys.argv[2])
    print(json.dumps(measure(sys.argv[3])))
elif __name__ == "__main__":
    if not sys.argv[1:] or not set(sys.argv[2:]) <= set(MODELS):
        sys.exit(f"usage: python -m bench.zoo CHECKOUT [MODEL …], models: {', '.join(MODELS)}")
    main(*sys.argv[1:])
