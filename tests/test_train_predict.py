"""``python -m train predict`` to standard output: against the model itself, and with files in any state."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import reference
from PIL import Image
from trained_runs import ENVIRONMENT, picture, save_run

import puppet_jax as pj
from train.__main__ import main
from train.data.images import ImageError, read_image
from train.errors import UserError
from train.plots import run_figures
from train.predict import stream
from train.predict.predictor import Predictor
from train.predict.stream import AHEAD, read_ahead

NAMES = ["cat", "dog", "猫", "a \x1b[31mred\n name"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, save_run(folder, [12, 16], NAMES, 3, puppeteer="continuous", seed=3)


@pytest.fixture
def run(saved):
    return saved[0]


@pytest.fixture
def model(saved):
    return saved[1]


@pytest.fixture
def pictures(tmp_path):
    return [picture(tmp_path / "in" / f"{seed:02d}.png", seed, (16, 12), "RGB") for seed in range(11)]


def json_lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_lines_are_what_the_model_says_of_the_files(run, model, pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(stream, "BATCH", 4)
    converted = [
        picture(tmp_path / "large.png", 1, (160, 120)),
        picture(tmp_path / "grey.png", 2, (16, 12), "L"),
        picture(tmp_path / "palette.gif", 4, (33, 20), "P"),
    ]
    order = [pictures[5], *pictures[:5], *pictures[6:], *converted]
    assert main(["predict", str(run), *map(str, order), "--json", "--top", "3"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    found = json_lines(said.out)
    assert [line["image"] for line in found] == [str(path) for path in order]
    pixels = np.stack([read_image(path, (12, 16), 3) for path in order])
    logits = np.asarray(model(pixels), np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert len({line["depth"] for line in found}) > 1
    for line, p, image in zip(found, probabilities, pixels, strict=True):
        best = np.argsort(-p)[:3]
        assert line["class"] == NAMES[best[0]]
        assert [each["class"] for each in line["top"]] == [NAMES[i] for i in best]
        np.testing.assert_allclose([each["probability"] for each in line["top"]], p[best], atol=1e-4)
        assert line["probability"] == line["top"][0]["probability"]
        assert line["complexity_bits"] == pytest.approx(
            reference.complexity(image), abs=model.measurement.bin / 2 + 1e-4
        )
        assert line["depth"] == int(pj.depth(line["complexity_bits"], max_depth=model.max_depth))


def test_the_table_is_aligned_and_folders_are_searched(run, pictures, tmp_path, capsys):
    picture(tmp_path / "in" / "below" / "猫.png", 3, (16, 12), "RGB")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    assert main(["predict", str(run), str(tmp_path / "in"), "--top", "9"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[0] == "image"
    assert header.count("probability") == 4  # no more than there are classes
    assert len(rows) == 12
    assert rows == sorted(rows, key=lambda row: row.split()[0])
    assert len({sum(2 if c == "猫" else 1 for c in line) for line in (header, *rows)}) == 1  # columns end together
    assert "\x1b" not in "".join(rows)
    assert any("a \\x1b[31mred\\n name" in row for row in rows)
    for row in rows:
        shares = [float(cell[:-1]) for cell in row.split() if cell.endswith("%")]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(100, abs=0.3)


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


def test_what_to_put_right_is_said_and_answers_that_are_no_numbers_are_refused(run, tmp_path, capsys):
    for arguments, message in [
        ([str(run)], "IMAGE: got none"),
        ([str(run), str(tmp_path)], "found no image"),
        ([str(run), str(tmp_path), "--top", "0"], "--top: got 0"),
    ]:
        assert main(["predict", *arguments]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(UserError, match="are no numbers"):
        Predictor.finish(None, (1, (np.full((1, 2), np.nan), np.zeros(1), np.zeros(1, int))))


def test_images_are_read_ahead_in_order_and_boundedly():
    started, lock = [], threading.Lock()

    def read(name):
        with lock:
            started.append(name)
        time.sleep(0.001 * (int(name) % 3))
        if name == "7":
            raise ImageError("line\n seven")
        return np.full((1, 2, 1), int(name), np.uint8)

    def ahead(count):
        return read_ahead(map(str, range(count)), read, (1, 2, 1), 8, threads=3)

    taken = []
    for batch in ahead(60):
        taken += batch.names
        expected = [[[[int(name)], [int(name)]]] for name in batch.names if name != "7"]
        np.testing.assert_array_equal(batch.pixels, np.array(expected))
        assert batch.errors == ({batch.names.index("7"): "line seven"} if "7" in batch.names else {})
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
    # What does not explain an image is an error.
    with pytest.raises(ValueError, match="invalid literal"):
        list(read_ahead(["a"], read, (1, 2, 1), 2, threads=1))


def test_the_process_streams_and_stops_with_its_reader(run, tmp_path):
    """As ``python -m train predict … | head -1``: no traceback, and code 141."""
    picture(tmp_path / "0.png", 0, (16, 12), "RGB")
    command = [sys.executable, "-m", "train", "predict", str(run), *[str(tmp_path)] * 9000]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        first = process.stdout.readline()
        process.stdout.close()
        rest = process.stderr.read()
    assert first.startswith("image ")
    assert rest == ""
    assert process.returncode == 141


def test_a_run_trained_on_a_folder_of_images_knows_them_again(tmp_path, capsys, monkeypatch):
    """From files to a trained model and back: what predict says of each file is what eval counts."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 24), ("test", 9)):
        for name, level in (("dark", 40), ("light", 200)):
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                levels = rng.integers(level - 30, level + 30, (10, 10, 3)).astype(np.uint8)
                Image.fromarray(levels).save(folder / f"{i}.png")
    monkeypatch.delattr(run_figures, "draw")
    run = tmp_path / "run"
    flags = ["--preset=puppet_xs", "--puppeteer=stored", "--width=8", "--batch-size=8", "--epochs=6", "--augment=none"]
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
