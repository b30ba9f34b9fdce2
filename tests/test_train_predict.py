"""Predictions from files: against the model itself, and of images and run folders in any state."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from train import answering, parameters
from train.__main__ import main
from train.build import build
from train.config import Config, resolve, to_json
from train.data import images as images_module
from train.errors import UserError
from train.predictor import Predictor
from train.read_ahead import AHEAD, read_ahead
from train.trained import FILE

ROOT = Path(__file__).parents[1]
MODEL = {"num_classes": 4, "in_channels": 3}
NAMES = ["cat", "dog", "猫", "a \x1b[31mred\n name"]
IMAGES = {"size": [12, 16], "class_names": NAMES}


@pytest.fixture(scope="module")
def config():
    return resolve(Config(puppeteer="continuous", seed=3))


@pytest.fixture(scope="module")
def model(config):
    model = build(config, **MODEL)
    # As after training: not what the seed alone would give, and not the same class for every image.
    nnx.update(model, jax.tree.map(lambda x: x * 1.25, nnx.state(model, nnx.Param)))
    return model


@pytest.fixture(scope="module")
def run(tmp_path_factory, config, model):
    folder = tmp_path_factory.mktemp("run")
    about = {"config": to_json(config), "model": MODEL, "images": IMAGES, "epoch": 1, "step": 7}
    parameters.save(folder / FILE, nnx.state(model, nnx.Param), about)
    return folder


def picture(path: Path, seed: int, size=(16, 12), mode: str = "RGB") -> Path:
    """An image of noise of its own loudness, so that complexities and depths differ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 4 + 40 * (seed % 6), (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(levels).convert(mode).save(path)
    return path


@pytest.fixture
def pictures(tmp_path):
    return [picture(tmp_path / "in" / f"{seed:02d}.png", seed) for seed in range(11)]


def softmax(logits):
    logits = np.asarray(logits, np.float64)
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def json_lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_lines_are_what_the_model_says_of_the_files(run, model, pictures, capsys, monkeypatch):
    monkeypatch.setattr(answering, "BATCH", 4)  # 11 images: two whole batches and a part of one
    order = [pictures[5], *pictures[:5], *pictures[6:]]
    assert main(["predict", str(run), *map(str, order), "--json", "--top", "3"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    found = json_lines(said.out)
    assert [line["image"] for line in found] == [str(path) for path in order]
    pixels = np.stack([np.asarray(Image.open(path)) for path in order])
    probabilities = softmax(model(pixels))
    complexity, depth = model.measure(pixels)
    assert len(set(np.asarray(depth).tolist())) > 1
    for line, p, h, d in zip(found, probabilities, complexity, depth, strict=True):
        best = np.argsort(-p)[:3]
        assert line["class"] == NAMES[best[0]]
        assert line["probability"] == pytest.approx(p[best[0]], abs=1e-4)
        assert [each["class"] for each in line["top"]] == [NAMES[i] for i in best]
        np.testing.assert_allclose([each["probability"] for each in line["top"]], p[best], atol=1e-4)
        assert line["complexity_bits"] == pytest.approx(float(h), abs=1e-4)
        assert line["depth"] == int(d)


def test_the_table_is_aligned_and_folders_are_searched(run, pictures, tmp_path, capsys):
    picture(tmp_path / "in" / "below" / "猫.png", 3)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    assert main(["predict", str(run), str(tmp_path / "in"), "--top", "9"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[0] == "image"
    assert header.count("probability") == 4  # no more than there are classes
    assert len(rows) == 12
    assert rows == sorted(rows, key=lambda row: row.split()[0])

    def columns(text: str) -> int:
        return sum(2 if c == "猫" else 1 for c in text)

    ends = {columns(line) for line in (header, *rows)}
    assert len(ends) == 1  # the last column stands on the right
    assert "\x1b" not in "".join(rows)
    assert any("a \\x1b[31mred\\n name" in row for row in rows)
    for row in rows:
        shares = [float(cell[:-1]) for cell in row.split() if cell.endswith("%")]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(100, abs=0.3)


def test_other_sizes_and_colours_are_converted_as_documented(run, model, tmp_path, capsys):
    paths = [
        picture(tmp_path / "large.png", 1, (160, 120)),
        picture(tmp_path / "grey.png", 2, (16, 12), "L"),
        picture(tmp_path / "palette.gif", 4, (33, 20), "P"),
    ]
    assert main(["predict", str(run), *map(str, paths), "--json"]) == 0
    found = json_lines(capsys.readouterr().out)
    pixels = np.stack([images_module.read_image(path, (12, 16), 3) for path in paths])
    complexity, _ = model.measure(pixels)
    np.testing.assert_allclose([line["complexity_bits"] for line in found], complexity, atol=1e-4)


def test_what_cannot_be_read_is_named_and_the_rest_predicted(run, pictures, tmp_path, capsys):
    whole = pictures[0].read_bytes()
    (tmp_path / "in" / "03.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "in" / "05.png").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    named = [str(tmp_path / "absent.png"), str(tmp_path / "empty"), str(tmp_path / "in")]
    assert main(["predict", str(run), *named, "--json"]) == 1
    said = capsys.readouterr()
    assert [Path(line["image"]).name for line in json_lines(said.out)] == [
        path.name for path in pictures if path.name not in ("03.png", "05.png")
    ]
    *reasons, count = said.err.splitlines()
    assert count == "4 of 13 could not be read"
    for name in ("absent.png", "empty", "03.png", "05.png"):
        assert sum(f"{name}: " in reason for reason in reasons) == 1


def test_nothing_to_predict_is_something_to_put_right(run, tmp_path, capsys):
    for arguments, message in [
        ([str(run)], "IMAGE: got none"),
        ([str(run), str(tmp_path)], "found no image"),
        ([str(run), str(tmp_path), "--top", "0"], "--top: got 0"),
        ([str(tmp_path / "absent"), "x.png"], "does not exist"),
        ([str(tmp_path), "x.png"], "no such file yet"),
    ]:
        assert main(["predict", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_answers_that_are_no_numbers_are_refused(model, monkeypatch):
    import puppet_jax as pj

    class Broken:
        arrays = ()

        def __init__(self, _):
            pass

        def with_arrays(self, _):
            return self

        def __call__(self, images):
            return np.array([[0.0, np.nan]]), np.ones(1), np.ones(1, int)

    monkeypatch.setattr(pj, "compile_predict", Broken)
    with pytest.raises(UserError, match="are no numbers"):
        Predictor(model)(np.zeros((1, 8, 8, 3), np.uint8))


def test_images_are_read_ahead_in_order_and_boundedly():
    started, lock = [], threading.Lock()

    def read(name):
        with lock:
            started.append(name)
        time.sleep(0.001 * (int(name) % 3))
        if name == "7":
            raise LookupError("seven")
        return np.full((1, 2, 1), int(name), np.uint8)

    def ahead(count):
        return read_ahead(map(str, range(count)), read, (1, 2, 1), 8, threads=3, refused=LookupError)

    taken = []
    for batch in ahead(60):
        taken += batch.names
        expected = [[[[int(name)], [int(name)]]] for name in batch.names if name != "7"]
        np.testing.assert_array_equal(batch.pixels, np.array(expected))
        assert [batch.names[place] for place in batch.errors] == ["7"] * ("7" in batch.names)
        with lock:
            assert len(started) <= len(taken) + 8 * AHEAD
    assert taken == [str(number) for number in range(60)]
    # Whoever stops early leaves no reading behind.
    reading = ahead(1000)
    next(reading)
    reading.close()
    before = len(started)
    time.sleep(0.01)
    assert len(started) == before <= 60 + 8 * (AHEAD + 1)


def test_what_no_image_explains_is_raised():
    def read(name):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(read_ahead(["a"], read, (1, 1, 1), 2, threads=1, refused=LookupError))


def test_the_process_streams_and_stops_with_its_reader(run, tmp_path):
    """As ``python -m train predict … | head -1``: no traceback, and code 141."""
    for seed in range(3):
        picture(tmp_path / f"{seed}.png", seed)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "train", "predict", str(run), *[str(tmp_path)] * 3000]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        first = process.stdout.readline()
        process.stdout.close()
        rest = process.stderr.read()
    assert first.startswith("image ")
    assert rest == ""
    assert process.returncode == 141


def test_a_run_trained_on_a_folder_of_images_knows_them_again(tmp_path, capsys):
    """From files to a trained model and back: what predict says of each file is what eval counts."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 24), ("test", 9)):
        for name, level in (("dark", 40), ("light", 200)):
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                levels = rng.integers(level - 30, level + 30, (10, 10, 3)).astype(np.uint8)
                Image.fromarray(levels).save(folder / f"{i}.png")
    run = tmp_path / "run"
    flags = [
        "--preset",
        "puppet_xs",
        "--puppeteer",
        "stored",
        "--batch-size",
        "8",
        "--epochs",
        "6",
        "--augment",
        "none",
    ]
    assert main(["--data", str(tmp_path / "data"), "--image-size", "8", *flags, "--out", str(run)]) == 0
    capsys.readouterr()
    assert main(["eval", str(run), "--json"]) == 0
    counted = json.loads(capsys.readouterr().out)
    assert main(["predict", str(run), str(tmp_path / "data" / "test"), "--json"]) == 0
    found = json_lines(capsys.readouterr().out)
    right = sum(Path(line["image"]).parent.name == line["class"] for line in found)
    assert counted["images"] == len(found) == 18
    assert right == counted["correct"] > 9
    complexity = np.mean([line["complexity_bits"] for line in found])
    assert complexity == pytest.approx(counted["complexity_mean_bits"], abs=1e-4)
