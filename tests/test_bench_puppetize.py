"""Tests of ``python -m bench speed puppetize``."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bench import puppetize, short_training, speed, timing
from train.data import Dataset, Split


class Tiny(nnx.Module):
    def __init__(self, channels, rngs):
        self.conv = nnx.Conv(channels, 8, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.5, rngs=rngs)
        self.head = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.conv(x))).mean((1, 2)))


def stripes(count, seed):
    """Stripes across (0) and along (1), of any phase, with noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count).astype(np.int32)
    phases, noise = rng.integers(0, 4, (count, 1, 1)), rng.integers(0, 40, (count, 8, 8))
    along = np.arange(8)[None, None, :] + phases
    bright = np.where(labels[:, None, None] == 1, along, np.swapaxes(along, 1, 2)) // 2 % 2
    return Split((bright * 200 + noise).astype(np.uint8)[..., None], labels)


def test_measures_speed_parameters_and_accuracy(tmp_path, monkeypatch):
    dataset = Dataset(stripes(96, 0), stripes(40, 1), ("across", "along"))
    monkeypatch.setattr(puppetize, "NETS", {"Tiny": Tiny})
    monkeypatch.setattr(puppetize, "RECIPE", {**puppetize.RECIPE, "epochs": 1})
    monkeypatch.setattr(puppetize, "SEEDS", (0, 1))
    monkeypatch.setattr(puppetize, "BUDGET_S", 0.0)
    monkeypatch.setattr(timing, "PAUSE_S", 0.0)
    monkeypatch.setattr(puppetize.data, "load", lambda *_: dataset)
    assert speed.run(speed.Speed(parts=("puppetize",), rounds=2, output=tmp_path)) == 0
    result = json.loads((tmp_path / "puppetize.json").read_text())
    lines = {(line["batch_norm"], line["depth"]): line for line in result["speed"]}
    assert set(lines) == {("running", "full"), ("group", "full"), ("running", "complexity")}
    for line in lines.values():
        quotients = np.divide(line["seconds"], line["original_seconds"])
        assert line["over_original"]["median"] == pytest.approx(np.median(quotients))
    assert [row["reached"] for row in result["rows"]] == [row["median"] <= 1.3 for row in result["rows"]]
    counts = result["parameters"]["Tiny"]
    assert (counts["static_kernels"], counts["static_twin"]) == (3 * 9 * 8, 3 * 9 * 8 + 16 + 18)
    own, ours = result["accuracy"]
    assert (own["kernels"], ours["kernels"]) == ("original", "continuous")
    assert own["parameters"] == 9 * 8 + 16 + 18
    assert own["train_images"] == ours["train_images"] == 96
    assert own["accuracy"] == np.mean(own["accuracies"])
    assert len(own["accuracies"]) == len(own["seeds"]) == 2


def test_training_learns_and_carries_averages_along():
    net = Tiny(1, nnx.Rngs(0))
    call = lambda net, images: net(images / np.float32(255))  # noqa: E731
    options = {"epochs": 6, "batch_size": 16, "learning_rate": 2e-2, "augmentation": "none"}
    trained, seconds = short_training.train(net, call, stripes(96, 0), **options)
    test = stripes(40, 1)
    assert short_training.accuracy(trained, call, test) > 0.9
    assert seconds > 0
    before, after = (np.asarray(each.norm.mean[...]) for each in (net, trained))
    assert (before == 0).all()
    np.testing.assert_allclose(after, jnp.mean(trained.conv(test.images / np.float32(255)), (0, 1, 2)), atol=0.1)
    right = np.asarray(call(trained, test.images)).argmax(-1) == test.labels  # eval mode: no batch of 500 needed
    assert short_training.accuracy(trained, call, test) == right.mean()
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(nnx.state(trained, nnx.Param)))
