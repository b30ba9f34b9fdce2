"""Small data, small nets and their run folders, shared by the tests of train/."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from PIL import Image

import puppet_jax as pj
from puppet_jax._pretrained import flat
from train import data
from train.build import build
from train.config import Config, resolve
from train.data import sets
from train.runs import model_file

ROOT = Path(__file__).parents[1]
SUMMARY = {"evaluated_on": "test", "compression": 4.55, "clipped": {"train": 0, "test": 0}, "max_depth": 5}
SUMMARY["best"] = {"epoch": 3, "test_accuracy": 1.0}
SUMMARY |= dict.fromkeys(("steps", "train_seconds", "compile_seconds", "peak_memory_bytes"), 1)
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}


def python(*arguments: str, cwd: Path | None = None, devices=1, **environment: str) -> subprocess.CompletedProcess:
    """A Python process, run to its end, of that many simulated devices."""
    environment["XLA_FLAGS"] = f"{ENVIRONMENT.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT | environment, cwd=cwd, timeout=600)


@functools.cache
def small_digits() -> data.Dataset:
    """A tenth of the digits."""
    digits = sets.load("digits", "test")  # not data.load, which tests replace by this
    train, test = (data.hold_out(split)[1] for split in (digits.train, digits.test))
    return data.Dataset(train, test, digits.class_names)


def metrics(folder: Path) -> list[dict]:
    """The lines of metrics, but for what a clock says."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in ("seconds", "images_per_second")} for line in lines]


def same_parameters(one: Path, other: Path) -> bool:
    """Whether two runs ended with the same parameters, to the bit."""
    arrays, expected = (model_file.read(folder / "params.safetensors")[0] for folder in (one, other))
    assert arrays.keys() == expected.keys()
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], expected[name], err_msg=name)
    return True


def save_run(folder: Path, size: list[int], names: list[str], channels: int, *, scale=1.25, **fields) -> pj.PuppetCNN:
    """Write the parameters of a model to a run's folder as training does, and return the model.

    Parameters are multiplied by ``scale``, so that they are not what the seed alone gives and not every image is of
    the same class.
    """
    config = resolve(Config(**{"preset": "puppet_xs", "puppeteer": "stored", "width": 8} | fields))
    model = build(config, num_classes=len(names), in_channels=channels)
    nnx.update(model, jax.tree.map(lambda x: x * scale, nnx.state(model, nnx.Param)))
    about = model_file.describe(config, {"image_shape": [*size, channels], "class_names": names})
    about.epoch, about.step = 1, 7
    folder.mkdir(parents=True, exist_ok=True)
    model_file.save(folder / "params.safetensors", flat(nnx.state(model, nnx.Param)), about)
    return model


def picture(path: Path, seed: int, size: tuple[int, int] = (8, 8), mode: str = "L") -> Path:
    """Write an image of noise. Seeds differ in contrast too, so that complexities and depths differ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(seed).integers(0, 4 + 40 * (seed % 6), (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(levels).convert(mode).save(path)
    return path
