"""Trained models of run folders from any hands: what is opened, and what is refused before anything is built."""

import json
import os
import random
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from train.__main__ import main
from train.build import build
from train.config import Config, resolve, to_json
from train.errors import UserError
from train.runs import parameters
from train.runs.trained import FILE, Images, open_run, stored

MODEL = {"num_classes": 4, "in_channels": 3}
IMAGES = {"size": [12, 16], "class_names": ["cat", "dog", "猫", "red"]}


@pytest.fixture(scope="module")
def config():
    return resolve(Config(puppeteer="continuous", seed=3))


@pytest.fixture(scope="module")
def model(config):
    model = build(config, **MODEL)
    # As after training: not what the seed alone would give, and not the same class for every image.
    nnx.update(model, jax.tree.map(lambda x: x * 1.25, nnx.state(model, nnx.Param)))
    return model


@pytest.fixture(scope="module")
def run(tmp_path_factory, config, model):
    folder = tmp_path_factory.mktemp("run")
    about = {"config": to_json(config), "model": MODEL, "images": IMAGES, "epoch": 1, "step": 7}
    parameters.save(folder / FILE, nnx.state(model, nnx.Param), about)
    return folder


def test_a_run_is_opened_as_it_was_saved(run, config, model):
    trained = open_run(run)
    assert trained.config == config
    assert trained.images() == Images((12, 16), 3, ("cat", "dog", "猫", "red"))
    images = np.random.default_rng(0).integers(0, 256, (2, 12, 16, 3)).astype(np.uint8)
    np.testing.assert_array_equal(trained.model(images), model(images))


def save(folder: Path, run: Path, **changes) -> Path:
    """The parameters of ``run`` under a changed header."""
    folder.mkdir(exist_ok=True)
    arrays, about = parameters.load(run / FILE)
    for key, value in changes.items():
        place = about
        *outer, last = key.split("__")
        for name in outer:
            place = place[name]
        place[last] = value
    header = {"format": parameters.FORMAT, "about": json.dumps(about)}
    safetensors.numpy.save_file(arrays, folder / FILE, metadata=header)
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "earlier version"),
        ({"images__size": [12]}, r"size is \[12\]"),
        ({"images__size": [10**6, 10**6]}, "from 1 to"),
        ({"images__size": [True, 3]}, "size is"),
        ({"images__class_names": ["a"]}, "expected 4 names"),
        ({"images__class_names": [1, 2, 3, 4]}, "expected 4 names"),
        ({"images__class_names": "abcd"}, "expected 4 names"),
        ({"config": 7}, "expected the configuration"),
        ({"config__momentum": 0.9}, "momentum"),
        ({"config__preset": "puppet_xxl"}, "puppet_xxl"),
        ({"config__preset": []}, "header is damaged"),
        ({"config__puppeteer": "ode"}, "has shape"),
        ({"config__dtype": "int32"}, "dtype"),
        ({"config__seed": "x"}, "header is damaged"),
        ({"config__puppeteer_options": "["}, "puppeteer_options"),
        ({"config__puppeteer_options": '{"hidden_layers": 1000000000}'}, "hidden_layers is 1000000000"),
        ({"config__puppeteer_options": '{"hidden": 1000000000000}'}, "hidden is 1000000000000, expected at most"),
        ({"config__puppeteer_options": '{"hidden": 4000}'}, "has shape"),
        ({"config__puppeteer_options": '{"solver": "x"}'}, "solver"),
        ({"config__puppeteer": "ode", "config__puppeteer_options": '{"steps_per_layer": 9999999}'}, "steps_per_layer"),
        ({"model__num_classes": 10**12}, "num_classes is 1000000000000"),
        ({"model__num_classes": 5}, "has shape"),
        ({"model__in_channels": None}, "in_channels is missing"),
        ({"model__spare": 1}, "spare"),
    ],
)
def test_a_header_that_does_not_fit_the_arrays_is_refused_before_anything_is_built(run, tmp_path, changes, message):
    folder = save(tmp_path / "run", run, **changes)
    with pytest.raises(UserError, match=message) as error:
        open_run(folder).images()
    assert FILE in str(error.value)


def test_foreign_files_are_refused(run, tmp_path, capsys):
    path = tmp_path / FILE
    good = (run / FILE).read_bytes()
    for content in (b"", good[:500], good[:-1], b"\x80\x04\x95 a pickle" * 20, b"PK\x03\x04" * 50, b"\xff" * 100):
        path.write_bytes(content)
        assert main(["eval", str(tmp_path)]) == 2
        assert "not a whole safetensors file" in capsys.readouterr().err
    safetensors.numpy.save_file({"w": np.zeros(3, np.float32)}, path)
    with pytest.raises(UserError, match="another program"):
        open_run(tmp_path)
    header = {"format": parameters.FORMAT, "about": "[1"}
    safetensors.numpy.save_file({"w": np.zeros(3, np.float32)}, path, metadata=header)
    with pytest.raises(UserError, match="not JSON"):
        open_run(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="not a regular file"):
        open_run(tmp_path)
    assert stored(tmp_path) is None


def test_parameters_that_are_no_numbers_are_refused(run, tmp_path):
    arrays, about = parameters.load(run / FILE)
    arrays["puppet.head_bias"][1] = np.nan
    header = {"format": parameters.FORMAT, "about": json.dumps(about)}
    safetensors.numpy.save_file(arrays, tmp_path / FILE, metadata=header)
    with pytest.raises(UserError, match=r"puppet\.head_bias holds values that are no numbers"):
        open_run(tmp_path)


def test_stored_parameters_are_counted_from_the_header(run, model):
    assert stored(run) == sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))


def test_mutated_parameters_never_end_in_a_traceback(run, tmp_path):
    """Seeded changes of the header, of every length and place: opened or refused by name, and in no great time."""
    good = (run / FILE).read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    chance = random.Random(0)
    refused = []
    for _ in range(150):
        content = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            content[chance.randrange(header)] = chance.randrange(32, 127)
        (tmp_path / FILE).write_bytes(bytes(content))
        try:
            open_run(tmp_path).images()
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert all(str(tmp_path) in text for text in refused)
