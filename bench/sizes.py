"""``python -m bench speed sizes``: what training costs by preset and size of image.

The images are pieces of scikit-learn's two photographs, at many scales; every case is a process of its own.
"""

from pathlib import Path

from bench import results_file, target
from bench.first_answer import ask
from bench.speed import Options

FILE = "sizes.json"
# Preset, side in pixels, images in a batch.
CASES = (
    ("puppet_s", 32, 64),
    ("puppet_s", 64, 64),
    ("puppet_s", 128, 16),
    ("puppet_vgg_s", 64, 64),
    ("puppet_vgg_s", 128, 16),
    ("puppet_vgg_s", 224, 16),
    ("puppet_resnet_s", 64, 64),
    ("puppet_resnet_s", 128, 16),
    ("puppet_resnet_s", 224, 16),
)
QUICK = (("puppet_xs", 8, 4),)
STEPS = 2
# As a first run is: nothing compiled before. Memory in huge pages, as the trainer takes it.
_ENVIRONMENT = {"JAX_ENABLE_COMPILATION_CACHE": "0", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
_SCRIPT = """
import json, sys
import numpy as np
from sklearn.datasets import load_sample_images
from train import data
from train.config import Config, resolve
from train.data.images import resize
from train.steps.loop import train

preset, (side, batch, steps) = sys.argv[1], map(int, sys.argv[2:])
rng, photographs = np.random.default_rng(0), load_sample_images().images


def piece(photograph):
    size = rng.integers(64, 400)
    top, left = (rng.integers(0, most - size) for most in photograph.shape[:2])
    return resize(photograph[top : top + size, left : left + size].copy(), (side, side))


images = np.stack([piece(photographs[i % 2]) for i in range(batch * steps)])
labels = np.arange(len(images), dtype=np.int32) % 10
splits = (data.Split(images[:count], labels[:count]) for count in (len(images), batch))
dataset = data.Dataset(*splits, tuple("0123456789"))
config = resolve(Config(data="photographs", preset=preset, batch_size=batch, epochs=1))
print(json.dumps(train(config, dataset, None)))
"""


def measure(options: Options, result: dict, path: Path | None) -> None:
    """One row a case: seconds for 1,000 images; with the time before the first step and the memory at the peak."""
    result |= {"steps": STEPS, "cases": [], "rows": []}
    here = {**_ENVIRONMENT, "PYTHONPATH": str(Path(__file__).parent.parent)}
    for preset, side, batch in QUICK if options.quick else CASES:
        summary = ask(_SCRIPT, preset, str(side), str(batch), str(STEPS), **here)
        seconds = 1000 * summary["train_seconds"] / (STEPS * batch)
        kept = {name: summary[name] for name in ("compile_seconds", "peak_memory_bytes")}
        result["cases"].append({"preset": preset, "side": side, "batch": batch, "seconds_of_1000": seconds, **kept})
        result["rows"].append(target.row(f"{preset}, {side}×{side}: s for 1,000 images", target.spread([seconds])))
        results_file.write(path, result)
