"""``python -m train predict --output``: continued after any end, never mixed, the same from several devices."""

import fcntl
import json
import os
from pathlib import Path

import pytest
from trained_runs import picture, python, save_run

from train.__main__ import main
from train.data.walk import walk_images
from train.predict import jsonl_file, predictor, stream
from train.runs.model_file import open_run

COUNT = 11
NAMES = ["a", "b", "ü"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    save_run(folder, [8, 8], NAMES, 1)
    return folder


@pytest.fixture(scope="module")
def compiled(run):
    return predictor.Predictor(open_run(run).model)


@pytest.fixture
def small(compiled, monkeypatch):
    """Batches of four, from a model that is compiled once for all tests."""

    class Compiled(predictor.Predictor):
        def __init__(self, *_):
            self.__dict__ |= compiled.__dict__

        def start(self, images, size=None):
            return super().start(images, 4)

    monkeypatch.setattr(stream, "BATCH", 4)
    monkeypatch.setattr(predictor, "Predictor", Compiled)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in range(COUNT):
        picture(tmp_path / "in" / ("below" if seed % 3 else "") / f"{seed:02d}.png", seed)
    return tmp_path


def lines_of(path) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_a_file_is_continued_wherever_it_was_cut(run, folder, small, capsys, monkeypatch):
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
        if there:
            assert Path("cut.jsonl").read_text() == "".join(expected.splitlines(keepends=True)[:there])
        else:
            assert not Path("cut.jsonl").exists()  # nothing is left of nothing
        assert main([*command, "cut.jsonl"]) == 0
        assert capsys.readouterr().out == f"cut.jsonl: 11 images, {11 - there} of them now\n"
        assert Path("cut.jsonl").read_text() == expected
        # As a killed process leaves it: cut off within a line.
        content = Path("cut.jsonl").read_bytes()
        Path("cut.jsonl").write_bytes(content[: len(content) * cut // 4])
        assert main([*command, "cut.jsonl"]) == 0
        assert Path("cut.jsonl").read_text() == expected
        Path("cut.jsonl").unlink()

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


def test_a_file_of_something_else_is_not_added_to(run, folder, small, capsys, tmp_path):
    command = ["predict", str(run), "in", "--output", "out.jsonl"]
    assert main(command) == 0
    content = Path("out.jsonl").read_bytes()
    other = tmp_path / "other"
    save_run(other, [8, 8], NAMES, 1, scale=1.5)
    Path("mine.jsonl").write_text('{"image": "x"}\n')

    def refused(message: str, *arguments: str) -> None:
        capsys.readouterr()
        assert main(["predict", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert Path("out.jsonl").read_bytes() == content

    refused(f"predictions of {run}, step 7, not of {other}, step 7", str(other), *command[2:])
    refused("(--top 1, now 2). Name another file, or delete that one", *command[1:], "--top", "2")
    refused("(IMAGE in, now in/below)", str(run), "in/below", *command[3:])
    refused("not from this command (there is no mine.jsonl.about beside it)", *command[1:4], "mine.jsonl")
    refused("expected a file in a folder that is there", *command[1:4], "absent/out.jsonl")
    refused("--devices: got 9, expected 1 to the", *command[1:], "--devices", "9")
    with open("out.jsonl", "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused("another process is writing out.jsonl", *command[1:])
    with open("out.jsonl", "ab") as file:
        file.write(b"\0\0\n")
    content += b"\0\0\n"
    refused("line 12: damaged", *command[1:])


def test_what_cannot_be_read_is_told_once_and_not_tried_again(run, folder, small, capsys, monkeypatch):
    whole = Path("in/00.png").read_bytes()
    Path("in/03.png").write_bytes(whole[: len(whole) // 2])
    command = ["predict", str(run), "in", "absent.png", "--output", "out.jsonl"]
    assert main(command) == 1
    *named, last = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[0] for line in named] == ["in/03.png", "absent.png"]
    assert last == "2 of 12 could not be read"
    found = lines_of("out.jsonl")
    assert {line["image"]: line.get("error") for line in found if "error" in line} == {
        "in/03.png": named[0].partition(": ")[2],
        "absent.png": "there is no such file",
    }
    assert len(found) == 12
    monkeypatch.setattr(stream, "read_image", None)
    assert main(command) == 1
    assert capsys.readouterr().err == "2 of 12 could not be read\n"
    assert lines_of("out.jsonl") == found


def test_the_walk_is_sorted_and_takes_what_a_list_would(tmp_path):
    for name in ("b/a.png", "b.png", "b/c/d.JPG", "a b/z.gif", "b-/x.png", ".hidden/x.png", "b/.x.png", "b/n.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "b" / "e\u0301.png").write_bytes(b"x")  # é in two characters, sorted as one: after f
    (tmp_path / "b" / "f.png").write_bytes(b"x")
    picture(tmp_path / "b" / "run" / "figure.png", 0)
    for name in ("config.json", "metrics.jsonl"):
        (tmp_path / "b" / "run" / name).write_text("{}")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png" / "inside.png").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere")
    expected = ["a b/z.gif", "b/a.png", "b/c/d.JPG", "b/f.png", "b/e\u0301.png", "b-/x.png", "b.png"]
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
start, devices = predictor.Predictor.start, []
def spied(self, images, size=None):
    started = start(self, images, size)
    devices.append(len(started[1][0].sharding.device_set))
    return started
predictor.Predictor.start = spied
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


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    file = jsonl_file.PredictionsFile(tmp_path / "out.jsonl", {"format": "x"})
    file.write([("a", {})])

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(ValueError, match=r"cannot be written \(No space left on device\); what is in it is whole"):
            file.write([("b", {})])
    assert (tmp_path / "out.jsonl").read_text() == '{"image": "a"}\n'
    assert file.count == 1
    file.__exit__()
    for path in (tmp_path / "new.jsonl", tmp_path / f"{'n' * 245}.jsonl"):  # the latter's .about has no name
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(ValueError, match="cannot be written"), jsonl_file.PredictionsFile(path, {}) as file:
                file.write([("c", {})])
    assert {path.name for path in tmp_path.iterdir()} == {"out.jsonl", "out.jsonl.about"}
