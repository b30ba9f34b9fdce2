"""``python -m bench speed folder``: predicting a folder of images, against the network alone on images in memory.

What is compared is the rate of ``python -m train predict MODEL FOLDER --output FILE``, without the seconds that it
takes for a few images, and that of ``compile_predict``, in turns.
"""

import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from bench import cifar, first_answer, target, timing
from bench.speed import Options

FILE = "folder.json"
TARGET = 0.9
IMAGES, FEW, BATCH = 10_000, 10, 256


def measure(options: Options, result: dict, path: Path | None) -> None:
    """A pretrained model on files of CIFAR-10's size and mix of complexities, which repeat.

    Raises:
        subprocess.CalledProcessError: the command failed; it holds what the command said.
    """
    import jax
    import numpy as np
    from PIL import Image

    import puppet_jax as pj

    count = 40 if options.quick else IMAGES
    different = cifar.images(cifar.complexities(min(count, 500)), jax.jit(pj.complexity))
    pixels = np.resize(different, (count, *different.shape[1:]))
    predict = pj.compile_predict(pj.load_pretrained(first_answer.MODEL))
    parts = [pixels[start : start + BATCH] for start in range(0, count, BATCH)]
    in_memory = lambda: jax.block_until_ready([predict(part) for part in parts])  # noqa: E731
    in_memory()  # compiled
    with tempfile.TemporaryDirectory() as name:
        many, few = Path(name, "many"), Path(name, "few")
        for folder, some in ((many, pixels), (few, pixels[:FEW])):
            folder.mkdir()
            for number, levels in enumerate(some):
                Image.fromarray(levels).save(folder / f"{number:06d}.png")
        sides = {
            "memory": lambda: count / timing.seconds_of(in_memory),
            "folder": lambda: (count - FEW) / (_predicted(many) - _predicted(few)),
        }
        rates = timing.in_turns(sides, options.rounds, partial(print, file=sys.stderr))
    row = target.row(
        "a folder's images/s over the network's own in memory",
        target.ratio(rates["folder"], rates["memory"]),
        ">=",
        TARGET,
    )
    result |= {"model": first_answer.MODEL, "images": count, "images_per_second": rates, "rows": [row]}


def _predicted(folder: Path) -> float:
    """Seconds of the command."""
    output = folder.with_suffix(".jsonl")
    output.unlink(missing_ok=True)
    command = [sys.executable, "-m", "train", "predict", first_answer.MODEL, str(folder), "--output", str(output)]
    began = time.perf_counter()
    subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True)
    return time.perf_counter() - began
