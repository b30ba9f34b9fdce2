"""``python -m bench speed folder``: predicting a folder of images, against the network alone on images in memory.

What is compared is the rate of ``python -m train predict RUN FOLDER --output FILE`` and that of ``compile_predict``, in
turns.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

from bench import results_file, target, timing
from bench.command import Options

FILE = "predict_{data}.json"
TARGET = 0.9


def measure(options: Options, result: dict, path: Path | None) -> None:
    """Files are the data set's test images, repeated where it has fewer. The model's parameters are as drawn: how long
    it takes does not depend on them."""
    from train import data

    count, preset = (20, "puppet_xs") if options.quick else (10_000, "puppet_s")
    dataset = data.load(options.data, options.data_dir, "test")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pixels = _make(options, preset, dataset, folder, count)
        result |= {"data": options.data, "preset": preset, "images": count, "shape": pixels.shape[1:]}
        found = timing.in_turns(_sides(folder, pixels), options.rounds, lambda each: print(each, file=sys.stderr))
        rates = {side: [count / seconds for seconds in each] for side, each in found.items()}
        result["images_per_second"] = rates
        share = target.ratio(rates["folder"], rates["memory"])
        row = target.row("a folder's images/s over the network's own in memory", share, ">=", TARGET)
        result["rows"] = [row]
        results_file.write(path, result)


def _make(options: Options, preset: str, dataset, folder: Path, count: int):
    """A run's folder, and files of images; their pixels as they are read back."""
    import numpy as np
    from flax import nnx
    from PIL import Image

    from train.build import build
    from train.config import Config, resolve, to_json
    from train.data.images import read_image
    from train.runs import parameters

    config = resolve(Config(data=options.data, preset=preset))
    source = dataset.test.images
    shape = source.shape[1:]
    model = {"num_classes": dataset.num_classes, "in_channels": shape[-1]}
    images = {"size": shape[:2], "class_names": list(dataset.class_names)}
    for name in ("run", "images"):
        (folder / name).mkdir()
    parameters.save(
        folder / "run" / "params.safetensors",
        nnx.state(build(config, **model), nnx.Param),
        {"config": to_json(config), "model": model, "images": images, "epoch": 0, "step": 0},
    )
    pixels = np.empty((count, *shape), np.uint8)
    for number in range(count):
        path = folder / "images" / f"{number:06d}.png"
        levels = source[number % len(source)]
        Image.fromarray(levels[..., 0] if shape[-1] == 1 else levels).save(path)
        pixels[number] = read_image(path, None, shape[-1])
    return pixels


def _sides(folder: Path, pixels) -> dict[str, partial]:
    """Both ways through all images, compiled."""
    import jax
    import numpy as np

    import puppet_jax as pj
    from train.commands import predict
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
            predict.add(file, given, count, images, predictor, 1)
            assert file.count == len(pixels)

    baked(parts[0])
    baked(parts[-1])
    predictor(parts[0])
    return {"memory": partial(timing.seconds_of, memory), "folder": partial(timing.seconds_of, from_folder)}
