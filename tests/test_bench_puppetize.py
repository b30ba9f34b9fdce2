"""Tests of ``python -m bench puppetize``."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bench import puppetize, short_training
from train.data import Dataset, Split
from train.errors import UserError


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


@pytest.fixture
def measured(tmp_path, monkeypatch):
    def load(name, data_dir, evaluate_on):
        if name != "stripes":
            raise UserError(f"{name} is nowhere")
        return Dataset(stripes(96, 0), stripes(40, 1), ("across", "along"))

    monkeypatch.setattr(puppetize, "NETS", {"Tiny": Tiny})
    monkeypatch.setattr(puppetize, "BUDGET_S", 0.0)
    monkeypatch.setattr(puppetize.data, "load", load)
    about = {"command": "python -m bench puppetize", "revision": "abc", "versions": {}, "machine": {"processor": "x"}}
    monkeypatch.setattr(puppetize.machine, "describe", lambda: dict(about))
    options = {"rounds": 2, "batch": 4, "nets": ("Tiny",), "datasets": ("stripes", "elsewhere"), "images": 64}
    return puppetize.Puppetize(output=tmp_path / "puppetize.json", **options)


def test_measures_reports_and_does_no_training_twice(measured, monkeypatch, capsys):
    assert puppetize.run(measured) == 0
    result = json.loads(measured.output.read_text())
    assert result["left_out"] == {"elsewhere": "elsewhere is nowhere"}
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
    assert own["train_images"] == ours["train_images"] == 64
    assert "| stripes | Tiny | continuous |" in capsys.readouterr().out

    monkeypatch.setattr(puppetize.short_training, "train", lambda *_, **__: pytest.fail("trained twice"))
    monkeypatch.setattr(puppetize, "_speed", lambda name, options: result["speed"])
    assert puppetize.run(measured) == 0
    assert json.loads(measured.output.read_text())["accuracy"] == result["accuracy"]


def test_an_option_that_is_none_is_refused(capsys):
    assert puppetize.run(puppetize.Puppetize(nets=("VGG",))) == 2
    assert "got VGG, expected some of ResNet-20, MobileNet" in capsys.readouterr().err
    assert puppetize.run(puppetize.Puppetize(images=0)) == 2
    assert "--images: got 0" in capsys.readouterr().err


def test_training_learns_and_carries_averages_along():
    net = Tiny(1, nnx.Rngs(0))
    call = lambda net, images: net(images / np.float32(255))  # noqa: E731
    options = {"epochs": 6, "batch_size": 16, "learning_rate": 2e-2, "augmentation": "none", "seed": 0}
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
