"""Whole runs: the program end to end, the same seed twice, one that diverges."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trained_runs import python, small_digits

from train import data
from train.__main__ import main
from train.config import Config, resolve
from train.runs import parameters, run_folder
from train.steps import loop
from train.steps.loop import train

TIMED = {"seconds", "images_per_second"}
SMALL = ["--puppeteer=stored", "--width=8", "--batch-size=32"]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(data, "load", lambda *_, **__: small_digits())


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_epochs_of_digits_through_the_command_line(tmp_path):
    folder = tmp_path / "run"
    done = python("-m", "train", "--epochs", "2", "--width", "16", "--out", folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} == {
        *run_folder.FINAL, "checkpoints", "events", run_folder.LOCK
    }  # fmt: skip
    assert run_folder.finished(folder)
    assert list(tmp_path.iterdir()) == [folder]

    config = json.loads((folder / "config.json").read_text())
    assert config["config"]["epochs"] == 2
    assert config["config"]["preset"] == "puppet_xs"
    assert {"python", "jax", "flax"} <= config["versions"].keys()
    history = lines(folder)
    assert [line["epoch"] for line in history] == [1, 2]
    assert history[1]["train_loss"] < history[0]["train_loss"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["test_accuracy"] == history[-1]["test_accuracy"] > 0.2
    assert summary["test_images"] == sum(row["images"] for row in summary["accuracy_by_depth"]) == 355
    for figure in run_folder.FIGURES:
        assert (folder / figure).read_bytes().startswith(b"\x89PNG")

    # Without a terminal: one plain line an epoch and no bar; the result on standard output.
    assert "\r" not in done.stderr
    assert sum(line.startswith("epoch ") for line in done.stderr.splitlines()) == 2
    assert f"test accuracy  {summary['test_accuracy']:.2%}" in done.stdout
    assert str(folder) in done.stdout
    # Their means are those of the images, which augmentation changes little.
    for line in history:
        assert line["complexity_mean"] == pytest.approx(summary["complexity_mean_bits"]["train"], abs=0.3)
        assert 2 < line["depth_mean"] < 4
    assert summary["best"]["test_accuracy"] == max(line["test_accuracy"] for line in history)

    # The saved parameters are the model that was reported on.
    model, its_config = parameters.restore(folder / "params.safetensors")
    assert its_config.epochs == 2
    _, about = parameters.load(folder / "params.safetensors")
    assert about["images"] == {"size": [8, 8], "class_names": list("0123456789")}
    assert (about["epoch"], about["step"]) == (2, summary["steps"])
    test = data.load("digits", None, "test").test
    correct = np.argmax(model(test.images), -1) == test.labels
    assert abs(int(correct.sum()) - summary["test_correct"]) <= 1  # rounding differs with the batch


def test_same_seed_same_numbers_other_seed_others(tmp_path):
    def numbers(name: str, seed: int):
        config = resolve(Config(puppeteer="stored", width=8, batch_size=32, epochs=2, seed=seed))
        folder = tmp_path / name
        folder.mkdir()
        train(config, small_digits(), folder)
        arrays, _ = parameters.load(folder / "params.safetensors")
        return [{k: v for k, v in line.items() if k not in TIMED} for line in lines(folder)], arrays

    (first, arrays), (second, same), (third, _) = numbers("a", 0), numbers("b", 0), numbers("c", 1)
    assert first == second
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], same[name])
    assert first != third


def test_max_steps_ends_in_the_middle_of_an_epoch_and_overwrite_replaces_the_run(tmp_path, small, capsys):
    arguments = [*SMALL, "--max-steps", "6", "--out", str(tmp_path / "run")]
    assert main(arguments) == 0
    history = lines(tmp_path / "run")
    steps = len(small_digits().train) // 32
    assert [line["step"] for line in history] == [steps, 6]
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    with run_folder.created(resolve(Config(out=tmp_path / "run", overwrite=True)), {}) as folder:
        assert {path.name for path in folder.iterdir()} == {run_folder.LOCK, "config.json"}


def test_a_loss_that_is_no_number_stops_the_run_with_code_1_and_keeps_the_last_good_checkpoint(
    tmp_path, monkeypatch, small, capsys
):
    whole = loop.make_optimiser

    def breaks_at_step_7(config, steps):
        # A learning rate that jumps: the parameters are lost in step 7, so that the loss of step 8 is no number.
        jump = optax.scale_by_schedule(lambda k: jnp.where(k == 6, jnp.inf, 1.0))
        return optax.chain(whole(config, steps), jump)

    monkeypatch.setattr(loop, "make_optimiser", breaks_at_step_7)
    folder = tmp_path / "run"
    assert main([*SMALL, "--checkpoint-steps", "2", "--out", str(folder)]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "not finite at step 8; the last good checkpoint, of step 6, is kept" in error
    assert "--learning-rate" in error
    assert not (folder / "summary.json").exists()
    assert {path.name for path in (folder / "checkpoints").iterdir()} >= {"4", "6"}
    assert not {path.name for path in (folder / "checkpoints").iterdir()} & {"8", "10"}
    arrays, about = parameters.load(folder / "params.safetensors")
    assert about["step"] == 6
    assert all(np.isfinite(array).all() for array in arrays.values())
    # Resumed, it comes to the same end.
    assert main(["--resume", str(folder)]) == 1
    assert "not finite at step 8" in capsys.readouterr().err
