"""Runs compared: the table against the files' own numbers, the figure as a file, and run folders in any state."""

import json
import os
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image
from trained_runs import SUMMARY

from train.__main__ import main
from train.errors import UserError
from train.runs.reading import Summary, read_json, read_metrics


def metrics(epoch: int, seed: int = 0) -> dict:
    return {
        "epoch": epoch,
        "step": 45 * epoch,
        "train_loss": 2.0 / (epoch + seed),
        "train_accuracy": 1 - 0.5 / (epoch + seed),
        "test_loss": 2.5 / (epoch + seed),
        "test_accuracy": 1 - 0.75 / (epoch + seed + 1),
        "learning_rate": 0.001,
        "seconds": 1.5,
        "images_per_second": 1000.0,
    }


def make_run(folder: Path, *, epochs=4, finished=True, total=10_346, seed=0) -> Path:
    folder.mkdir(parents=True)
    lines = [metrics(epoch, seed) for epoch in range(1, epochs + 1)]
    (folder / "config.json").write_text(json.dumps({"config": {"epochs": 4, "evaluate_on": "test"}}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        last = {name: lines[-1][name] for name in ("test_accuracy", "test_loss")}
        counted = dict.fromkeys(("total", "generator", "normalisation", "head", "static_twin"), total)
        summary = (
            SUMMARY | last | {"parameters": counted, "test_images": 355, "test_correct": 302, "accuracy_by_depth": []}
        )
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def rows(text: str) -> list[list[str]]:
    """The cells of a table: what two blanks or more part."""
    lines = text.split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]


def test_runs_are_compared_in_a_table_and_a_figure(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(Path("a"))
    make_run(Path("b\x1b[31m\udcff"), total=47_082, seed=1, epochs=3)
    make_run(Path("c"), epochs=2, finished=False, seed=2)
    out = tmp_path / "figure.png"
    assert main(["plot", "a", "b\x1b[31m\udcff", "c", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert rows(said.out) == [
        ["run", "epochs", "accuracy", "loss", "parameters", "compression", "s/epoch", "state"],
        ["a", "4", "85.00%", "0.6250", "10,346", "4.55x", "1.5", "finished"],
        ["b\\x1b[31m\\udcff", "3", "85.00%", "0.6250", "47,082", "4.55x", "1.5", "finished"],
        ["c", "2", "85.00%", "0.6250", "–", "–", "1.5", "unfinished, epoch 2 of 4"],
    ]
    assert said.err == ""
    # Not an empty picture: paper, ink, and the colours of two runs.
    pixels = np.asarray(Image.open(out).convert("RGB")).reshape(-1, 3)
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert np.sum(np.all(pixels == colour, axis=-1)) > 500
    assert np.mean(np.all(pixels == 255, axis=-1)) > 0.5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b\x1b[31m\udcff", "c", "figure.png"]


@pytest.mark.parametrize(("suffix", "start"), [(".SVG", b"<?xml"), (".pdf", b"%PDF")])
def test_the_suffix_says_the_kind_and_the_same_runs_give_the_same_bytes(tmp_path, monkeypatch, suffix, start):
    run = make_run(tmp_path / "run $x_1$")
    contents = []
    for name in ("one", "two"):
        if name == "two":  # as a user's matplotlibrc may say, of a LaTeX that is not there
            for setting, value in {"text.usetex": True, "font.size": 30.0, "savefig.dpi": 20.0}.items():
                monkeypatch.setitem(matplotlib.rcParams, setting, value)
        assert main(["plot", str(run), "--out", str(tmp_path / (name + suffix))]) == 0
        contents.append((tmp_path / (name + suffix)).read_bytes())
    assert contents[0].startswith(start)
    assert contents[0] == contents[1]


def test_what_cannot_be_read_is_named_and_the_rest_is_compared(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    good = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([*good[:2], "{", "[]", "null", "7", "{}", *good[3:]]))
    (run / "summary.json").write_text("[]")
    empty = tmp_path / "empty"
    empty.mkdir()
    nothing = make_run(tmp_path / "nothing")
    (nothing / "metrics.jsonl").write_text("")
    bad = [empty, nothing, tmp_path / "absent", run / "config.json"]
    out = tmp_path / "figure.png"
    assert main(["plot", *map(str, bad), str(run), str(run), "--out", str(out)]) == 1
    said = capsys.readouterr()
    for folder in bad:
        assert f"left out: {folder}" in said.err
    state = "unfinished, epoch 4 of 4; summary.json damaged; 5 damaged lines"
    assert [row[-1] for row in rows(said.out)] == ["state", state]  # the run once
    out.unlink()
    for arguments, message in [
        ([*map(str, bad), "--out", str(out)], "none of them can be compared"),
        ([str(run), "--out", "figure.gif"], "ends in .png, .svg, .pdf"),
        ([str(run), "--out", str(tmp_path / "absent" / "figure.png")], "cannot be written (No such file"),
        ([], "RUN: got none"),
    ]:
        assert main(["plot", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not out.exists()


def test_damaged_json_is_refused_and_numbers_are_read_as_numbers_alone(tmp_path):
    path = make_run(tmp_path / "run") / "summary.json"
    sound = json.loads(path.read_text())
    assert read_json(path, Summary).test_images == 355
    wrong = [("test_loss", "3"), ("compression", True), ("test_loss", -1), ("test_accuracy", 1.5)]
    for name, value in [*wrong, ("parameters", {"total": 3}), ("accuracy_by_depth", [{"depth": 1}])]:
        path.write_text(json.dumps(sound | {name: value}))
        with pytest.raises(UserError, match=rf"summary.json: damaged .*{name}"):
            read_json(path, Summary)
    for content, message in (("", "Expecting value"), ("[]", "Expected `object`"), ('{"a": ' * 100_000, "recursion")):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            read_json(path)
    with open(path, "wb") as file:
        file.truncate(2**40)  # a hole: nothing on the disk
    with pytest.raises(UserError, match="of at most 64 MiB"):
        read_json(path)
    path.unlink()
    os.mkfifo(path)
    for place, message in [(path, "a regular file"), (tmp_path, "a regular file"), (Path("a\0b"), "cannot be")]:
        with pytest.raises(UserError, match=message):
            read_json(place)


def test_damaged_lines_are_numbered_and_the_last_line_of_an_epoch_counts(tmp_path):
    path = tmp_path / "metrics.jsonl"
    good = [json.dumps(metrics(epoch)) for epoch in (1, 2, 3)]
    wrong = [("epoch", "2"), ("test_accuracy", 1.5), ("test_loss", float("inf")), ("step", 10**400), ("seconds", None)]
    bad = [json.dumps(metrics(2) | {name: value}) for name, value in wrong]
    bad += ["{", "[1]", json.dumps({"epoch": 2}), "[" * 200_000, good[1][: len(good[1]) // 2]]
    last = [json.dumps(metrics(4)), json.dumps(metrics(3) | {"test_loss": 9.0})]
    path.write_text("\n".join([good[0], "", *bad, good[2], *last, good[0]]))
    epochs, damaged = read_metrics(path)
    assert [line.epoch for line in epochs] == [1, 3, 4]
    assert epochs[1].test_loss == 9.0
    assert damaged == list(range(3, 3 + len(bad)))
