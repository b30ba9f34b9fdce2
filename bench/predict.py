"""``python -m bench speed predict``: predicting a folder of images, against the network alone on images in memory."""

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Literal

from bench import machine, results_file, target, timing

TARGET = 0.9
# The peak of so many images is compared with that of all.
FEW = 1000


@dataclasses.dataclass(frozen=True)
class Predict:
    """Compare the rate of ``python -m train predict RUN FOLDER --output FILE`` with that of ``compile_predict`` on the
    same images in memory, in turns; and the command's peak memory on few images with that on many."""

    data: str = "cifar10"
    """Data set whose test images are written to files, as ``python -m train`` takes it; repeated where it has fewer."""
    data_dir: Path | None = None
    """Where TensorFlow Datasets keeps it (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets)."""
    preset: str = "puppet_s"
    """Of the model, whose parameters are as drawn: how long it takes does not depend on them."""
    images: int = 10_000
    """Files in the folder."""
    format: Literal["png", "jpeg"] = "png"
    """Of the files."""
    rounds: int = 5
    """Turns of each."""
    output: Path | None = None
    """JSON to write; none: bench/results/predict_DATA.json."""


def run(options: Predict) -> int:
    """Measure, write, print. 0; 1 if the command failed; 2 if the data cannot be had."""
    from train import data
    from train.errors import UserError

    try:
        dataset = data.load(options.data, options.data_dir, "test")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pixels = _make(options, dataset, folder)
        rounds, costs = _rates(options, folder, pixels)
        peaks = []
        for count in sorted({min(FEW, options.images), options.images}):
            peak = _peak(folder, count)
            if peak is None:
                return 1
            peaks.append(peak)
    ratios = [each["folder"] / each["memory"] for each in rounds]
    rows = [target.row("a folder's images/s over the network's own in memory", ratios, ">=", TARGET)]
    shape = "x".join(map(str, pixels.shape[1:]))
    result = {
        **machine.describe(),
        "what": f"{options.data}, {options.preset}, {options.images:,} {options.format} files of {shape}",
        "rounds": rounds,
        "microseconds_an_image": costs,
        "peaks": peaks,
        "rows": rows,
    }
    output = options.output or results_file.FOLDER / f"predict_{Path(options.data).name}.json"
    results_file.finish(output, result, target.table(rows))
    return 0


def _make(options: Predict, dataset, folder: Path):
    """A run's folder, and files of images; their pixels as they are read back."""
    import numpy as np
    from flax import nnx
    from PIL import Image

    from train.build import build
    from train.config import Config, resolve, to_json
    from train.data.images import read_image
    from train.runs import parameters

    config = resolve(Config(data=options.data, preset=options.preset))
    source = dataset.test.images
    shape = source.shape[1:]
    model = {"num_classes": dataset.num_classes, "in_channels": shape[-1]}
    images = {"size": shape[:2], "class_names": list(dataset.class_names)}
    (folder / "run").mkdir()
    parameters.save(
        folder / "run" / "params.safetensors",
        nnx.state(build(config, **model), nnx.Param),
        {"config": to_json(config), "model": model, "images": images, "epoch": 0, "step": 0},
    )
    pixels = np.empty((options.images, *shape), np.uint8)
    for number in range(options.images):
        # The first ones in a folder below, which alone is predicted to compare memory.
        path = folder / "images" / ("few" if number < FEW else "more") / f"{number:06d}.{options.format}"
        path.parent.mkdir(parents=True, exist_ok=True)
        levels = source[number % len(source)]
        Image.fromarray(levels[..., 0] if shape[-1] == 1 else levels).save(path)
        pixels[number] = read_image(path, None, shape[-1])
    return pixels


def _rates(options: Predict, folder: Path, pixels) -> tuple[list[dict], dict[str, float]]:
    """Images a second of each, by round; and where processor time goes, in microseconds an image."""
    import jax
    import numpy as np

    import puppet_jax as pj
    from train.commands import predict
    from train.data.images import read_image
    from train.data.walk import find_images
    from train.predict import stream
    from train.predict.jsonl_file import PredictionsFile, describe
    from train.predict.predictor import Predictor
    from train.runs.trained import open_run

    trained = open_run(folder / "run")
    images, given = trained.images(), [str(folder / "images")]
    about = describe(trained.folder, trained.about, trained.digest(), 1, given)
    baked, predictor = pj.compile_predict(trained.model), Predictor(trained.model)
    size = stream.batch_size(len(pixels), images, 1)
    parts = [np.ascontiguousarray(pixels[start : start + size]) for start in range(0, len(pixels), size)]

    def memory() -> None:
        jax.block_until_ready([baked(part) for part in parts])

    def from_folder() -> None:
        path = folder / "predictions.jsonl"
        path.unlink(missing_ok=True)
        with PredictionsFile(path, about) as file:
            count = sum(1 for _ in predict.missing(file, given))
            predict.add(file, predict.missing(file, given), count, images, predictor, 1)
            assert file.count == len(pixels)

    baked(parts[0])  # compiled, as is every other program
    baked(parts[-1])
    predictor(parts[0])
    spent = {"memory": [], "folder": []}
    rounds: list[dict] = []

    def rate(name: str, one) -> float:
        processor = time.process_time()
        seconds = timing.seconds_of(one)
        spent[name].append(1e6 * (time.process_time() - processor) / len(pixels))
        return len(pixels) / seconds

    def done(rates: dict[str, float]) -> None:
        rounds.append(rates)
        said = ", ".join(f"{name} {value:,.0f} images/s" for name, value in rates.items())
        print(f"round {len(rounds)}: {said}", file=sys.stderr)

    sides = {"memory": partial(rate, "memory", memory), "folder": partial(rate, "folder", from_folder)}
    timing.in_turns(sides, options.rounds, done)
    some = find_images(folder / "images" / "few")
    processor = time.process_time()
    for path in some:
        read_image(path, images.size, images.channels)
    costs = {"network": statistics.median(spent["memory"]), "all of a folder's": statistics.median(spent["folder"])}
    return rounds, costs | {"reading and decoding": 1e6 * (time.process_time() - processor) / len(some)}


# A process's peak begins at that of the one that started it (getrusage(2) on Linux), which therefore must be small.
_STARTER = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
code = subprocess.run(sys.argv[2:], stdout=sys.stderr).returncode
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
print(json.dumps({"images": int(sys.argv[1]), "peak_bytes": peak, "seconds": time.perf_counter() - began}))
sys.exit(code)
"""


def _peak(folder: Path, count: int) -> dict | None:
    """Peak resident set and seconds of the whole command; ``None`` if it failed, its own words printed."""
    images = folder / "images" / "few" if count <= FEW else folder / "images"
    command = [sys.executable, "-m", "train", "predict", str(folder / "run"), str(images)]
    command += ["--output", str(folder / f"{count}.jsonl")]
    starter = [sys.executable, "-c", _STARTER, str(count), *command]
    done = subprocess.run(starter, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr)
        return None
    return json.loads(done.stdout)
