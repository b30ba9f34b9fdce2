"""Saved parameters: a round trip, and files from any hands, refused before anything is built of them."""

import json
import os
import random
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from trained_runs import save_run

from train.__main__ import main
from train.build import build, measurement
from train.config import Config, Measurement, resolve
from train.errors import UserError
from train.runs import parameters
from train.runs.source import PARAMETERS as FILE
from train.runs.trained import Images, open_run, stored

NAMES = ["cat", "dog", "猫", "red"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, save_run(folder, [12, 16], NAMES, 3, puppeteer="continuous", seed=3)


@pytest.fixture
def run(saved):
    return saved[0]


@pytest.fixture
def model(saved):
    return saved[1]


def flat(model):
    return parameters.flat(nnx.state(model, nnx.Param))


def test_depth_is_as_the_preset_says_unless_the_measurement_does():
    def depth(**fields):
        return measurement(resolve(Config(data="cifar10", **fields)))["depth"]

    assert (depth(), depth(preset="puppet_m"), depth(model="own_cnn:net")) == ("complexity", "full", "complexity")
    assert depth(preset="puppet_m", measurement=Measurement(depth=3)) == 3


def test_a_run_is_opened_as_it_was_saved(run, model):
    trained = open_run(run)
    assert trained.config == resolve(Config(preset="puppet_xs", width=8, seed=3))
    assert trained.images() == Images((12, 16), 3, tuple(NAMES))
    expected, got = flat(model), flat(trained.model)
    assert expected.keys() == got.keys()
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)
    images = np.random.default_rng(0).integers(0, 256, (2, 12, 16, 3)).astype(np.uint8)
    np.testing.assert_array_equal(trained.model(images), model(images))
    assert stored(run) == sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
    # The file is plain safetensors with dotted names, and nothing lies beside it.
    arrays = safetensors.numpy.load_file(run / FILE)
    np.testing.assert_array_equal(arrays["puppet.head"], model.puppet.head[...])
    assert {"puppet.head_bias", "puppet.norm_scale.0"} <= arrays.keys()
    assert [path.name for path in run.iterdir()] == [FILE]


def test_arrays_are_saved_as_they_are_however_they_lie_in_memory(tmp_path):
    across = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4))
    parameters.save(tmp_path / FILE, nnx.State({"across": nnx.Param(across)}), {})
    np.testing.assert_array_equal(parameters.arrays_of(tmp_path / FILE)["across"], across)


def test_a_failed_save_keeps_the_old_file(run, tmp_path, model, monkeypatch):
    path = tmp_path / FILE
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        parameters.save(path, nnx.state(model, nnx.Param), {})
    assert path.read_bytes() == b"old"


def write(folder: Path, arrays, about: str, **header) -> Path:
    folder.mkdir(exist_ok=True)
    metadata = {"format": parameters.FORMAT, "about": about} | header
    safetensors.numpy.save_file(arrays, folder / FILE, metadata=metadata)
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "what images it was trained on"),
        ({"images__size": [12]}, r"size is \[12\]"),
        ({"images__size": [10**6, 10**6]}, "from 1 to"),
        ({"images__class_names": ["a"]}, "expected 4 names"),
        ({"config__momentum": 0.9}, "momentum"),
        ({"config__seed": "x"}, "header is damaged"),
        ({"config__puppeteer_options": '{"hidden": 1000000000000}'}, "hidden is 1000000000000, expected at most"),
        ({"config__puppeteer_options": '{"solver": "x"}'}, "solver"),
        ({"config__puppeteer": "ode", "config__puppeteer_options": '{"steps_per_layer": 9999999}'}, "steps_per_layer"),
        ({"model__num_classes": 10**12}, "num_classes is 1000000000000"),
        ({"model__num_classes": 5}, "has shape"),
        ({"model__in_channels": None}, "in_channels is missing"),
    ],
)
def test_a_header_that_does_not_fit_the_arrays_is_refused_before_anything_is_built(run, tmp_path, changes, message):
    arrays, about = parameters.load(run / FILE)
    for key, value in changes.items():
        place = about
        *outer, last = key.split("__")
        for name in outer:
            place = place[name]
        place[last] = value
    folder = write(tmp_path / "run", arrays, json.dumps(about))
    with pytest.raises(UserError, match=message) as error:
        open_run(folder).images()
    assert FILE in str(error.value)


def test_foreign_files_are_refused(run, tmp_path, capsys):
    path = tmp_path / FILE
    good = (run / FILE).read_bytes()
    pickle, archive = b"\x80\x04\x95 a pickle" * 20, b"PK\x03\x04" * 50
    for content in (b"", good[:4], good[:500], good[:-1], pickle, archive, b"\xff" * 100, b"{}"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a whole safetensors file"):
            parameters.load(path)
        assert main(["eval", str(tmp_path)]) == 2
        assert "not a whole safetensors file" in capsys.readouterr().err
    some = {"w": np.zeros(3, np.float32)}
    for about, header, message in [
        ("{}", {"format": "x"}, "another program"),
        ("[1", {}, "not JSON"),
        ("{}", {"format": "puppet-jax parameters 1"}, "of another version of puppet-jax"),
    ]:
        write(tmp_path, some, about, **header)
        with pytest.raises(UserError, match=message):
            open_run(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        parameters.load(tmp_path / "absent")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="not a regular file"):
        open_run(tmp_path)
    assert stored(tmp_path) is None


def test_parameters_that_are_no_numbers_are_refused(run, tmp_path):
    arrays, about = parameters.load(run / FILE)
    arrays["puppet.head_bias"][1] = np.nan
    with pytest.raises(UserError, match=r"puppet\.head_bias holds values that are no numbers"):
        open_run(write(tmp_path, arrays, json.dumps(about)))


def test_arrays_that_do_not_fit_change_nothing(run):
    arrays, about = parameters.load(run / FILE)
    fresh = build(resolve(Config(preset="puppet_xs", width=8)), **about["model"])
    before = flat(fresh)
    head = arrays["puppet.head"]
    for changed, message in [
        ({"puppet.head": np.zeros((3, 4), np.float32)}, r"puppet\.head is float32\[3, 4\], expected float32\[8, 4\]"),
        ({"puppet.head_bias": None}, "puppet.head_bias is missing"),
        ({"puppet.head": head.astype(np.float64)}, "puppet.head is float64"),
        ({"extra": np.zeros(1, np.float32)}, "extra is not a parameter"),
    ]:
        bad = {name: array for name, array in (arrays | changed).items() if array is not None}
        with pytest.raises(UserError, match=message):
            parameters.assign(fresh, bad)
    for name, array in flat(fresh).items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("count", [15, pytest.param(1000, marks=pytest.mark.soak)])
def test_mutated_parameters_never_end_in_a_traceback(run, tmp_path, count, time_left):
    """Seeded changes of the header, of every length and place: opened or refused by name."""
    path = tmp_path / FILE
    good = (run / FILE).read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    chance = random.Random(0)
    done, refused = 0, []
    while done < count and time_left():
        content = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            content[chance.randrange(header)] = chance.randrange(32, 127)
        path.write_bytes(bytes(content))
        try:
            open_run(path.parent).images()
        except UserError as error:
            refused.append(str(error))
        done += 1
    assert len(refused) >= done / 2
    assert all(str(path.parent) in text for text in refused)
