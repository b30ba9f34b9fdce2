"""A whole run by the command line, ``python -m train eval`` of it: the run's own numbers again; a damaged summary."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from trained_runs import SUMMARY, metrics, python, save_run

from train import data
from train.__main__ import main
from train.commands import evaluate
from train.errors import UserError
from train.runs import model_file, run_folder
from train.runs.model_file import open_run
from train.runs.reading import Summary, read_json


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's folder and the process that trained it: two epochs of the digits."""
    outside = tmp_path_factory.mktemp("runs")
    flags = ["--epochs", "2", "--width", "8", "--batch-size", "16"]
    done = python("-m", "train", *flags, "--out", outside / "run", cwd=outside)
    assert done.returncode == 0, done.stderr
    assert list(outside.iterdir()) == [outside / "run"]
    return outside / "run", done


@pytest.fixture(scope="module")
def run(trained):
    return trained[0]


@pytest.fixture(scope="module")
def summary(run):
    return json.loads((run / "summary.json").read_text())


def evaluated(capsys, *arguments) -> dict:
    assert main(["eval", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_two_epochs_of_digits_through_the_command_line(trained, summary):
    folder, done = trained
    assert {path.name for path in folder.iterdir()} == {*run_folder.FINAL, "checkpoints", run_folder.LOCK}
    assert run_folder.finished(folder)
    config = json.loads((folder / "config.json").read_text())
    assert {"python", "jax", "flax"} <= config["versions"].keys()
    history = metrics(folder)
    assert [line["epoch"] for line in history] == [1, 2]
    assert history[1]["train_loss"] < history[0]["train_loss"]
    assert summary["test_accuracy"] == history[-1]["test_accuracy"] > 0.2
    assert summary["best"]["test_accuracy"] == max(line["test_accuracy"] for line in history)
    for figure in run_folder.FIGURES:
        assert (folder / figure).read_bytes().startswith(b"\x89PNG")
    _, best = model_file.read(folder / "best.safetensors")
    assert [best.epoch, best.step] == [summary["best"][name] for name in ("epoch", "step")]

    # Without a terminal: one plain line an epoch and no bar; the result on standard output.
    assert "\r" not in done.stderr
    assert sum(line.startswith("epoch ") for line in done.stderr.splitlines()) == 2
    assert f"test accuracy  {summary['test_accuracy']:.2%}" in done.stdout
    assert str(folder) in done.stdout


def test_evaluation_gives_the_numbers_of_the_summary_to_the_last_digit(run, summary, capsys, tmp_path):
    found = evaluated(capsys, run)
    for name, reported in {"correct": "test_correct", "accuracy": "test_accuracy", "loss": "test_loss"}.items():
        assert found[name] == found["reported"][name] == summary[reported]
    assert found["images"] == summary["test_images"]
    assert found["accuracy_by_depth"] == summary["accuracy_by_depth"]
    assert found["clipped"] == summary["clipped"]["test"]
    assert found["complexity_mean_bits"] == pytest.approx(summary["complexity_mean_bits"]["test"], rel=1e-6)
    depths = [row["depth"] * row["images"] for row in found["accuracy_by_depth"]]
    assert found["depth_mean"] == pytest.approx(sum(depths) / 355, rel=1e-6)
    counts = np.array(found["confusion"])
    test = data.load("digits", "test").test
    assert counts.sum(1).tolist() == np.bincount(test.labels).tolist()
    assert counts.trace() == found["correct"]
    for row, line in zip(counts, found["accuracy_by_class"], strict=True):
        assert (line["images"], line["accuracy"]) == (row.sum(), row[int(line["class"])] / row.sum())
        assert line["taken_for"] is None or row[int(line["taken_for"])] == np.delete(row, int(line["class"])).max()

    text = evaluate.report(found)
    assert f"{summary['test_accuracy']:.2%} ({summary['test_correct']} of 355, as reported)" in text
    assert f"{summary['test_loss']:.4f} nats" in text
    assert text.splitlines()[-len(summary["accuracy_by_depth"]) - 1].split() == ["depth", "images", "accuracy"]
    (tmp_path / "params.safetensors").write_bytes((run / "params.safetensors").read_bytes())
    (tmp_path / "summary.json").write_text(json.dumps(summary | {"test_correct": 1}))
    assert main(["eval", str(tmp_path)]) == 0
    assert "of 355, 1 reported)" in capsys.readouterr().out


def test_images_that_the_run_was_trained_on_are_called_so(run, capsys):
    assert main(["eval", str(run), "--evaluate-on", "validation", "--json"]) == 0
    said = capsys.readouterr()
    assert "trained on" in said.err
    found = json.loads(said.out)
    assert found["evaluated_on"] == "validation"
    assert found["images"] == len(data.load("digits", "validation").test)
    assert found["reported"] is None


def test_what_cannot_be_evaluated_is_refused_and_a_damaged_summary_is_no_report(run, tmp_path, capsys):
    for content in ("[]", "{", '{"evaluated_on": "test", "test_images": "355"}'):
        (tmp_path / "summary.json").write_text(content)
        assert evaluate._reported(dataclasses.replace(open_run(run), source=tmp_path), 355) is None
    save_run(tmp_path / "other", [8, 8], ["a", "b", "c", "d"], 1)
    with pytest.raises(UserError, match=r"class_names = 0, 1, .*, the model of .* a, b, c, d: not the data set"):
        evaluate.run(evaluate.Evaluate(tmp_path / "other"))
    (tmp_path / "damaged").mkdir()
    for changes, message in [
        ({"seed": ["x"]}, "cannot be opened here"),
        ({"evaluate_on": "train"}, r"Invalid enum value 'train' - at `\$.evaluate_on`"),
    ]:
        arrays, about = model_file.read(run / "params.safetensors")
        about.recipe |= changes
        model_file.save(tmp_path / "damaged" / "params.safetensors", arrays, about)
        with pytest.raises(UserError, match=message):
            evaluate.run(evaluate.Evaluate(tmp_path / "damaged"))
    assert main(["eval", str(run / "summary.json")]) == 2
    assert "is no folder" in capsys.readouterr().err


def test_damaged_json_is_refused_and_numbers_are_read_as_numbers_alone(tmp_path):
    path = tmp_path / "summary.json"
    counted = dict.fromkeys(("total", "generator", "normalisation", "head", "static_twin"), 9)
    sound = SUMMARY | {"parameters": counted, "accuracy_by_depth": [], "test_accuracy": 0.5, "test_loss": 1}
    sound |= {"test_images": 355, "test_correct": 302}
    path.write_text(json.dumps(sound))
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
    for place in (tmp_path, Path("a\0b")):
        with pytest.raises(UserError, match="damaged"):
            read_json(place)
