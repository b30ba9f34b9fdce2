"""``python -m train predict``: against the model itself, and with files in any state; with ``--output`` continued after
any end, never mixed, the same from several devices."""

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import reference
from PIL import Image
from trained_runs import ENVIRONMENT, picture, python, save_run

import puppet_jax as pj
from train.__main__ import main
from train.data.images import ImageError, read_image
from train.data.walk import walk_images
from train.errors import UserError
from train.predict import predictor, stream
from train.predict.predictor import Predictor
from train.predict.stream import AHEAD, read_ahead
from train.runs.model_file import open_run

COUNT = 11
NAMES = ["cat", "dog", "猫", "a \x1b[31mred\n name"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    model = save_run(folder, [8, 10], NAMES, 3, puppeteer="continuous", seed=3)
    return folder, model, Predictor(pj.compile_predict(open_run(folder).model))


@pytest.fixture
def run(saved):
    return saved[0]


@pytest.fixture(autouse=True)
def small(saved, monkeypatch):
    """Batches of four, from a model that is compiled once for all tests."""

    class Compiled(Predictor):
        def __init__(self, *_):
            self.__dict__ |= saved[2].__dict__

        def __call__(self, images, size=None):
            return super().__call__(images, 4)

    monkeypatch.setattr(stream, "BATCH", 4)
    monkeypatch.setattr(predictor, "Predictor", Compiled)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in range(COUNT):
        picture(tmp_path / "in" / ("below" if seed % 3 else "") / f"{seed:02d}.png", seed)
    return tmp_path


@pytest.fixture
def pictures(tmp_path):
    return [picture(tmp_path / "in" / f"{seed:02d}.png", seed, (16, 12), "RGB") for seed in range(COUNT)]


def json_lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def lines_of(path) -> list[dict]:
    return json_lines(Path(path).read_text())


def test_json_lines_are_what_the_model_says_of_the_files(saved, pictures, tmp_path, capsys):
    run, model, _ = saved
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
    pixels = np.stack([read_image(path, (8, 10), 3) for path in order])
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
    answers = pj.compile_predict(pj.load_pretrained(run)).predict_images([Image.open(path) for path in order])
    np.testing.assert_array_equal(answers.depth, [line["depth"] for line in found])
    for best, line in zip(answers.top(3), found, strict=True):
        assert [name for name, _ in best] == [each["class"] for each in line["top"]]
        np.testing.assert_allclose([p for _, p in best], [each["probability"] for each in line["top"]], atol=1e-4)


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


def test_what_cannot_be_read_is_told_once_and_the_rest_predicted(run, folder, capsys, monkeypatch):
    whole = Path("in/00.png").read_bytes()
    Path("in/03.png").write_bytes(whole[: len(whole) // 2])
    Path("in/06.png").write_bytes(b"")
    Path("empty").mkdir()
    command = ["predict", str(run), "absent.png", "empty", "in"]
    bad = ["absent.png", "empty", "in/03.png", "in/06.png"]
    for more in (["--json"], ["--output", "out.jsonl"]):
        assert main([*command, *more]) == 1
        said = capsys.readouterr()
        *reasons, last = said.err.splitlines()
        assert sorted(line.partition(": ")[0] for line in reasons) == bad
        assert last == "4 of 13 could not be read"
        if more == ["--json"]:
            good = json_lines(said.out)
            assert len(good) == COUNT - 2
    found = lines_of("out.jsonl")
    assert [line for line in found if "error" not in line] == good
    told = {line["image"]: line["error"] for line in found if "error" in line}
    assert told["absent.png"] == "No such file or directory"
    assert {f"{image}: {why}" for image, why in told.items()} <= set(reasons)
    monkeypatch.setattr(stream, "read_image", None)  # not tried again
    assert main([*command, "--output", "out.jsonl"]) == 1
    assert capsys.readouterr().err.splitlines() == ["empty: no image in this folder", last]  # a folder is walked again
    assert lines_of("out.jsonl") == found


def test_what_to_put_right_is_said_and_answers_that_are_no_numbers_are_refused(run, tmp_path, capsys):
    for arguments, message in [
        ([str(run)], "IMAGE: got none"),
        ([str(run), str(tmp_path)], "found no image"),
        ([str(run), str(tmp_path), "--top", "0"], "--top: got 0"),
    ]:
        assert main(["predict", *arguments]) == 2
        assert message in capsys.readouterr().err
    nothing = Predictor(pj.compile_predict(open_run(run).model))
    nothing._run = lambda *_: (np.full((1, 2), np.nan), np.zeros(1), np.zeros(1, int))
    with pytest.raises(UserError, match="are no numbers"):
        nothing(np.zeros((1, 8, 10, 3), np.uint8))


def test_images_are_read_ahead_in_order_and_boundedly():
    started = []

    def read(name):
        started.append(name)
        time.sleep(0.001 * (int(name) % 3))
        if name == "7":
            raise ImageError("line\n seven")
        return np.full((1, 2, 1), int(name), np.uint8)

    def ahead(count):
        return read_ahead([str(number) for number in range(count)], read, 8, threads=3)

    taken = []
    for names, images in ahead(60):
        taken += names
        for name, image in zip(names, images, strict=True):
            assert image == "line seven" if name == "7" else (image == int(name)).all()
        assert len(started) <= len(taken) + 8 * AHEAD
    assert taken == [str(number) for number in range(60)]
    assert len(started) == 60
    # Whoever stops early leaves no reading behind.
    reading = ahead(1000)
    next(reading)
    reading.close()
    before = len(started)
    time.sleep(0.01)
    assert len(started) == before


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


def test_a_file_is_continued_wherever_it_was_cut(run, folder, capsys, monkeypatch):
    command = ["predict", str(run), "in", "--output"]
    assert main(["predict", str(run), "in", "--json"]) == 0
    expected = capsys.readouterr().out
    assert main([*command, "whole.jsonl"]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("whole.jsonl: 11 images, 11 of them now\n", "")
    assert Path("whole.jsonl").read_text() == expected
    assert [line["image"] for line in lines_of("whole.jsonl")] == sorted(map(str, Path("in").rglob("*.png")))

    write, calls = os.write, []

    def half(file, content):
        calls.append(len(content))
        if len(calls) == cut:
            write(file, content[: len(content) // 2])
            raise KeyboardInterrupt
        return write(file, content)

    for cut in (1, 3):
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", half)
            assert main([*command, "cut.jsonl"]) == 130
        there = 4 * (cut - 1)
        assert f"{there} of 11 images are in cut.jsonl; the same command goes on" in capsys.readouterr().err
        assert Path("cut.jsonl").read_text() == "".join(expected.splitlines(keepends=True)[:there])
        assert main([*command, "cut.jsonl"]) == 0
        assert capsys.readouterr().out == f"cut.jsonl: 11 images, {11 - there} of them now\n"
        assert Path("cut.jsonl").read_text() == expected
        Path("cut.jsonl").unlink()

    # As a killed process leaves it: cut off within a line.
    Path("whole.jsonl").write_bytes(Path("whole.jsonl").read_bytes()[:-100])
    assert main([*command, "whole.jsonl"]) == 0
    assert Path("whole.jsonl").read_text() == expected
    # What has come since is added; what has gone stays.
    picture(Path("in", "00a.png"), 5)
    Path("in", "00.png").unlink()
    capsys.readouterr()
    assert main([*command, "whole.jsonl"]) == 0
    assert capsys.readouterr().out == "whole.jsonl: 12 images, 1 of them now\n"
    assert Path("whole.jsonl").read_text().startswith(expected)
    assert lines_of("whole.jsonl")[-1]["image"] == "in/00a.png"
    # What several arguments lead to is predicted once.
    assert main(["predict", str(run), "in/below", "in", "in/03.png", "in", "--output", "out.jsonl"]) == 0
    names = [line["image"] for line in lines_of("out.jsonl")]
    assert len(names) == len(set(names)) == COUNT


def test_a_file_of_something_else_is_not_added_to(run, folder, capsys, tmp_path):
    command = ["predict", str(run), "in", "--output", "out.jsonl"]
    assert main(command) == 0
    content = Path("out.jsonl").read_bytes()
    other = tmp_path / "other"
    save_run(other, [8, 10], NAMES, 3, puppeteer="continuous", seed=3, scale=1.5)
    Path("mine.jsonl").write_text('{"image": "x"}\n')

    def refused(message: str, *arguments: str) -> None:
        capsys.readouterr()
        assert main(["predict", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert Path("out.jsonl").read_bytes() == content

    refused(f"parameters {open_run(other).digest()}, --top 1. Name another", str(other), *command[2:])
    refused("--top 2. Name another file, or delete that one", *command[1:], "--top", "2")
    refused("mine.jsonl holds lines of another program, not to be mixed", *command[1:4], "mine.jsonl")
    refused("absent/out.jsonl: No such file or directory", *command[1:4], "absent/out.jsonl")
    refused("--devices: got 9, expected 1 to the", *command[1:], "--devices", "9")
    with open("out.jsonl", "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused("another process is writing out.jsonl", *command[1:])
    with open("out.jsonl", "ab") as file:
        file.write(b"\0\0\n")
    content += b"\0\0\n"
    refused("line 12: damaged", *command[1:])


def test_the_walk_is_sorted_and_takes_what_a_list_would(tmp_path):
    for name in ("b/a.png", "b.png", "b/c/d.JPG", "a b/z.gif", "b-/x.png", ".hidden/x.png", "b/.x.png", "b/n.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    picture(tmp_path / "b" / "run" / "figure.png", 0)
    for name in ("config.json", "metrics.jsonl"):
        (tmp_path / "b" / "run" / name).write_text("{}")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png" / "inside.png").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere")
    expected = ["a b/z.gif", "b/a.png", "b/c/d.JPG", "b-/x.png", "b.png"]
    expected += ["broken.png", "folder.png"]
    passed = {}
    found = list(walk_images(tmp_path, passed.__setitem__))
    assert found == [str(tmp_path / name) for name in expected]
    told = {
        "b/n.txt": "no image by its ending",
        "b/run": "the folder of a run",
        "link": "a link to a folder, not followed",
    }
    assert passed == {str(tmp_path / name): reason for name, reason in told.items()}
    assert list(walk_images(tmp_path / "b/n.txt")) == [str(tmp_path / "b/n.txt")], "asked for by name"


DEVICES = """
import sys
import jax
from train.predict import predictor
from train.__main__ import main
call, devices = predictor.Predictor.__call__, []
def spied(self, images, size=None):
    devices.append(len(jax.tree.leaves(self._arrays)[0].sharding.device_set))
    return call(self, images, size)
predictor.Predictor.__call__ = spied
for output, *flags in (["one.jsonl", "--devices", "1"], ["two.jsonl"]):
    assert main([*sys.argv[1:], "--output", output, *flags]) == 0
print(devices)
"""


def test_two_devices_say_what_one_says(run, folder):
    done = python("-c", DEVICES, "predict", run, "in", devices=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[1, 2]"
    one, two = lines_of("one.jsonl"), lines_of("two.jsonl")
    assert [line["image"] for line in one] == [line["image"] for line in two]
    assert len(one) == COUNT
    for a, b in zip(one, two, strict=True):
        assert (a["class"], a["depth"]) == (b["class"], b["depth"])
        assert a["probability"] == pytest.approx(b["probability"], rel=1e-5)
        assert a["complexity_bits"] == pytest.approx(b["complexity_bits"], rel=1e-6)
