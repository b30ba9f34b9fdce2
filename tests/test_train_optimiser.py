"""The learning rate against its closed form, Muon's updates, what is decayed. Steps: see test_train_by_hand.py."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_train_by_hand import orthogonal

from puppet_jax._pretrained import flat
from train.build import build
from train.config import Config, resolve
from train.steps.optimiser import MUON_RMS, decayed, learning_rate, make_optimiser, orthogonalised


@pytest.mark.parametrize(("steps", "rising"), [(100, 10), (37, 4), (10, 1), (4, 0), (1, 0)])
def test_the_learning_rate_is_its_closed_form(steps, rising):
    config, peak = resolve(Config(learning_rate=0.02)), 0.02
    schedule = functools.partial(jax.jit(lambda steps, k: learning_rate(config, steps)(k)), steps)
    for k in range(steps):
        falling = 0.5 * (1 + math.cos(math.pi * (k - rising) / (steps - rising)))
        expected = peak * (k + 1) / rising if k < rising else peak * falling
        assert float(schedule(k)) == pytest.approx(expected, rel=1e-5, abs=1e-8), k
    assert float(schedule(0)) > 0  # the first step is not wasted
    assert float(schedule(steps)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("shape", "order", "as_matrices"),
    [
        ((6, 4, 3, 3), (0, 1, 2, 3), (1, 6, 36)),
        ((5, 8, 8), (0, 1, 2), (5, 8, 8)),
        ((5, 12, 2), (1, 0, 2), (1, 12, 10)),
        ((5, 2, 12), (0, 1, 2), (1, 10, 12)),
        ((7, 4), (0, 1), (1, 7, 4)),
    ],
)
def test_muon_gives_every_matrix_of_the_puppeteer_an_orthogonal_update(rng, shape, order, as_matrices):
    config = resolve(Config(optimiser="muon", learning_rate=0.1, weight_decay=0.0))
    gradient = rng.normal(size=shape).astype(np.float32)
    gradients = {"puppeteer": {"kernel": jnp.asarray(gradient)}}
    optimiser = make_optimiser(config, 10)
    updates, _ = optimiser.update(gradients, optimiser.init(gradients), gradients)
    given, got = (
        np.transpose(x, order).reshape(as_matrices).astype(float)
        for x in (gradient, np.asarray(updates["puppeteer"]["kernel"]))
    )
    _, rows, columns = as_matrices
    for each, update in zip(given, got, strict=True):
        expected = -0.1 * MUON_RMS * np.sqrt(max(rows, columns)) * orthogonal(each)
        np.testing.assert_allclose(update, expected, atol=1e-4)


@pytest.mark.parametrize("puppeteer", ["continuous", "ode", "printed", "stored"])
def test_decay_spares_biases_and_normalisation_and_muon_leaves_more_to_adamw(puppeteer):
    params = nnx.state(build(resolve(Config(puppeteer=puppeteer)), num_classes=10, in_channels=1), nnx.Param)
    marks = flat(decayed(params))
    assert {name for name in marks if "bias" in name or "norm" in name} == {n for n, mark in marks.items() if not mark}
    assert marks["puppet.head"]
    muon = {name for name, yes in flat(orthogonalised(params)).items() if yes}
    expected = {
        name
        for name, leaf in flat(params).items()
        if name.startswith("puppeteer.") and leaf.ndim >= 2 and not re.search("bias|norm", name)
    }
    assert muon == expected != set()
