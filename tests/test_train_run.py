"""Whole runs: a step by hand, the program end to end, the same seed twice, an interruption."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import optax
import pytest
from flax import nnx

from train import data, parameters, run
from train.__main__ import main
from train.build import build
from train.config import Config, resolve
from train.evaluation import by_depth, evaluate, measure
from train.loop import means, train
from train.optimiser import make_optimiser
from train.step import make_eval_step, make_train_step, start

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
TIMED = {"seconds", "images_per_second"}


def cross_entropy(logits, targets):
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return -np.sum(targets * (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))), -1)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", None, "test")


@pytest.fixture(scope="module")
def small(digits):
    """A tenth of the digits."""
    part = lambda split: data.every_nth(split, 10)[1]  # noqa: E731
    return data.Dataset(part(digits.train), part(digits.test), 10)


def test_a_step_on_nodes_moves_as_the_exact_one(small):
    images, labels = small.train.images[:16], small.train.labels[:16]
    moved = {}
    for nodes in (0, 16):
        # Plain descent without clipping: the change of a parameter is its gradient.
        config = resolve(Config(puppeteer="continuous", augment="none", nodes=nodes))
        graphdef, params, rest = nnx.split(build(config, num_classes=10, in_channels=1), nnx.Param, ...)
        before = parameters.flat(params)
        step = make_train_step(graphdef, optax.sgd(1.0), config, (1.0, 6.0))
        after = parameters.flat(step(start(params, optax.sgd(1.0)), rest, images, labels).params)
        moved[nodes] = {name: after[name] - before[name] for name in before}
    assert moved[0].keys() == moved[16].keys()
    for name, exact in moved[0].items():
        assert np.abs(moved[16][name] - exact).max() <= 2e-3 * np.abs(exact).max() + 1e-6, name


def test_a_step_tallies_and_moves_as_computed_by_hand(small):
    config = resolve(
        Config(
            puppeteer="stored", label_smoothing=0.1, augment="none", warmup=0.0, weight_decay=0.0, learning_rate=1e-2
        )
    )
    model = build(config, num_classes=10, in_channels=1)
    images, labels = small.train.images[:16], small.train.labels[:16]
    smooth = 0.9 * np.eye(10)[labels] + 0.01
    logits = model(images)
    before = parameters.flat(nnx.state(model, nnx.Param))

    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    optimiser = make_optimiser(config, 10)
    state = make_train_step(graphdef, optimiser, config)(start(params, optimiser), rest, images, labels)
    loss, accuracy, seen = means(state.tally)
    assert loss == pytest.approx(cross_entropy(logits, smooth).mean(), rel=1e-5)
    assert accuracy == np.mean(np.argmax(logits, -1) == labels)
    assert seen == 16
    assert int(state.step) == 1
    # The gradient of the head's bias is the mean of softmax minus target; Adam's first step is lr times its sign.
    exponentials = np.exp(np.asarray(logits, np.float64))
    gradient = (exponentials / exponentials.sum(-1, keepdims=True) - smooth).mean(0)
    moved = parameters.flat(state.params)["puppet.head_bias"] - before["puppet.head_bias"]
    np.testing.assert_allclose(moved, -1e-2 * np.sign(gradient), rtol=1e-3)
    # Donation took the state's own copy, not the model's parameters.
    np.testing.assert_array_equal(model.puppet.head_bias[...], before["puppet.head_bias"])


def test_evaluation_counts_each_image_once_whatever_the_batch(small):
    model = build(resolve(Config(puppeteer="stored")), num_classes=10, in_channels=1)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    split = small.test
    logits = np.stack([model(image) for image in split.images])
    for batch_size in (8, len(split), 64):
        loss, correct = evaluate(make_eval_step(graphdef), params, rest, split, batch_size)
        np.testing.assert_allclose(loss, cross_entropy(logits, np.eye(10)[split.labels]), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(correct, logits.argmax(-1) == split.labels)


def test_measure_and_accuracy_by_depth(small):
    model = build(resolve(Config(puppeteer="stored")), num_classes=10, in_channels=1)
    got = measure(model, small.test, 16)
    h, d = model.measure(small.test.images)
    np.testing.assert_allclose(got["complexity"], h, rtol=1e-6)
    np.testing.assert_array_equal(got["depth"], d)
    assert not got["clipped"].any()
    rows = by_depth(np.array([3, 4, 3, 3]), np.array([True, False, False, True]))
    assert rows == [
        {"depth": 3, "images": 3, "accuracy": pytest.approx(2 / 3)},
        {"depth": 4, "images": 1, "accuracy": 0.0},
    ]


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_epochs_of_digits_through_the_command_line(tmp_path, digits):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "train", "--epochs", "2", "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} == set(run.FILES) - {"params.safetensors.tmp"}
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
    assert summary["test_images"] == sum(row["images"] for row in summary["accuracy_by_depth"]) == len(digits.test)
    for figure in run.FIGURES:
        assert (folder / figure).read_bytes().startswith(b"\x89PNG")

    # Without a terminal: one plain line an epoch and no bar; the result on standard output.
    assert "\r" not in done.stderr
    assert sum(line.startswith("epoch ") for line in done.stderr.splitlines()) == 2
    assert f"test accuracy  {summary['test_accuracy']:.2%}" in done.stdout
    assert str(folder) in done.stdout

    # The saved parameters are the model that was reported on.
    model, its_config = parameters.restore(folder / "params.safetensors")
    assert its_config.epochs == 2
    correct = np.argmax(model(digits.test.images), -1) == digits.test.labels
    assert abs(int(correct.sum()) - summary["test_correct"]) <= 1  # rounding differs with the batch


def test_same_seed_same_numbers_other_seed_others(tmp_path, small):
    def numbers(name: str, seed: int):
        config = resolve(Config(puppeteer="stored", batch_size=32, epochs=2, seed=seed))
        folder = tmp_path / name
        folder.mkdir()
        train(config, small, folder)
        arrays, _ = parameters.load(folder / "params.safetensors")
        return [{k: v for k, v in line.items() if k not in TIMED} for line in lines(folder)], arrays

    (first, arrays), (second, same), (third, _) = numbers("a", 0), numbers("b", 0), numbers("c", 1)
    assert first == second
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], same[name])
    assert first != third


def test_max_steps_ends_in_the_middle_of_an_epoch_and_overwrite_replaces_the_run(tmp_path, monkeypatch, small, capsys):
    monkeypatch.setattr(data, "load", lambda *_: small)
    arguments = ["--puppeteer", "stored", "--batch-size", "32", "--max-steps", "6", "--out", str(tmp_path / "run")]
    assert main(arguments) == 0
    history = lines(tmp_path / "run")
    steps = len(small.train) // 32
    assert [line["step"] for line in history] == [steps, 6]
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run.make_folder(Config(out=tmp_path / "run", overwrite=True)) == tmp_path / "run"
    assert not any((tmp_path / "run").iterdir())


def test_a_loss_that_is_no_number_stops_the_run_with_code_1(tmp_path, monkeypatch, small, capsys):
    monkeypatch.setattr(data, "load", lambda *_: small)
    arguments = ["--puppeteer", "stored", "--batch-size", "32", "--warmup", "0", "--out", str(tmp_path / "run")]
    assert main([*arguments, "--learning-rate", "1e38"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--learning-rate" in error
    assert not (tmp_path / "run" / "summary.json").exists()


def test_ctrl_c_keeps_finished_epochs_and_ends_with_130(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "train", "--puppeteer", "stored", "--epochs", "1000", "--out", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=tmp_path) as process:
        for line in process.stderr:
            if line.startswith("epoch 2/"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert process.returncode == 130
    last = rest.strip().splitlines()[-1]
    assert last.startswith("interrupted")
    assert str(folder) in last
    assert "Traceback" not in rest
    assert len(lines(folder)) >= 2
    parameters.restore(folder / "params.safetensors")
