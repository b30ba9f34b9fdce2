"""Saved parameters: a round trip, and files from any hands, refused before anything is built of them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from trained_runs import save_run

import puppet_jax as pj
from puppet_jax import PRESETS
from puppet_jax._pretrained import KEY, flat
from puppet_jax._pretrained import PARAMETERS as FILE
from train import data
from train.build import measurement
from train.config import Config, Measurement, recipe_of, resolve
from train.errors import UserError
from train.runs import model_file
from train.runs.model_file import open_run
from train.steps.loop import plan

NAMES = ["cat", "dog", "猫", "red"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, save_run(folder, [12, 16], NAMES, 3, puppeteer="continuous", seed=3)


@pytest.fixture
def run(saved):
    return saved[0]


def test_depth_is_as_the_preset_says_unless_the_measurement_does():
    def depth(**fields):
        return measurement(resolve(Config(data="cifar10", **fields)))["depth"]

    assert (depth(), depth(preset="puppet_m"), depth(model="own_cnn:net")) == ("complexity", "full", "complexity")
    assert depth(preset="puppet_m", measurement=Measurement(depth=3)) == 3


def test_a_run_is_opened_as_it_was_saved(saved):
    run, model = saved
    trained = open_run(run)
    made = json.dumps(dict(PRESETS["puppet_xs"].puppeteer_options["continuous"]))
    expected = resolve(Config(preset="puppet_xs", width=8, seed=3, puppeteer_options=made))
    told = {"measurement": {"bin": 0.25, "depth": "complexity", "function": None}}
    assert recipe_of(trained.config) == recipe_of(expected) | told
    assert (trained.model.image_shape, trained.model.classes) == ((12, 16, 3), tuple(NAMES))
    expected, got = flat(nnx.state(model, nnx.Param)), flat(nnx.state(trained.model, nnx.Param))
    assert expected.keys() == got.keys()
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)
    images = np.random.default_rng(0).integers(0, 256, (2, 12, 16, 3)).astype(np.uint8)
    np.testing.assert_array_equal(trained.model(images), model(images))
    np.testing.assert_array_equal(pj.load_pretrained(run / FILE)(images), model(images))
    # The file is plain safetensors with dotted names, and nothing lies beside it.
    arrays = safetensors.numpy.load_file(run / FILE)
    np.testing.assert_array_equal(arrays["puppet.head"], model.puppet.head[...])
    assert {"puppet.head_bias", "puppet.norm_scale.0"} <= arrays.keys()
    assert [path.name for path in run.iterdir()] == [FILE]


def test_a_digest_is_of_what_decides_predictions(saved, tmp_path):
    def digest(size=(12, 16), names=NAMES, scale=1.25, **fields):
        save_run(tmp_path, list(size), names, 3, puppeteer="continuous", scale=scale, **fields)
        return open_run(tmp_path).digest()

    # Where a run lies, how it was trained and on how many devices is not.
    same = digest(seed=3, out=Path("elsewhere"), devices=2, checkpoint_steps=7, epochs=99)
    assert open_run(saved[0]).digest() == same
    others = [{"seed": 4}, {"seed": 3, "size": (16, 12)}, {"seed": 3, "names": NAMES[::-1]}, {"seed": 3, "scale": 1.5}]
    others.append({"seed": 3, "dtype": "bfloat16"})
    assert same not in {digest(**fields) for fields in others}
    x = np.zeros((2, 3))
    told = [("", {"a": x}), ("z", {"a": x}), ("", {"b": x}), ("", {"a": x + 1}), ("", {"a": x.T}), ("", {"a": x == 1})]
    assert len({model_file.digest(*each) for each in told}) == len(told)


def test_arrays_are_saved_as_they_are_however_they_lie_in_memory(run, tmp_path):
    across = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4))
    arrays = flat(nnx.State({"across": nnx.Param(across)}))
    model_file.save(tmp_path / FILE, arrays, model_file.read(run / FILE)[1])
    np.testing.assert_array_equal(model_file.read(tmp_path / FILE)[0]["across"], across)


def write(folder: Path, arrays, about) -> Path:
    folder.mkdir(exist_ok=True)
    metadata = {KEY: about if isinstance(about, str) else json.dumps(about)}
    safetensors.numpy.save_file(arrays, folder / FILE, metadata=metadata)
    return folder


def header(run) -> dict:
    return pj.pretrained_info(run / FILE) | {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": [10**6, 10**6]}, r"expected at most 4,194,304 pixels"),
        ({"recipe__seed": "x"}, "cannot be opened here: Expected `int`, got `str` - at `$.seed`"),
        ({"create__momentum": 0.9}, "unknown field `momentum`"),
        ({"create__model": "a:b"}, "expected the name of a preset or the function of a CNN"),
        ({"create__puppeteer_options__hidden": 10**12}, "hidden is 1000000000000, expected at most"),
        ({"create__num_classes": 5, "class_names": list("abcde")}, "puppet.head is float32[8, 4], expected float32[8,"),
    ],
)
def test_a_header_that_does_not_fit_the_arrays_is_refused_before_anything_is_built(run, tmp_path, changes, message):
    arrays, about = model_file.read(run / FILE)[0], header(run)
    for key, value in changes.items():
        place = about
        *outer, last = key.split("__")
        for name in outer:
            place = place[name]
        place[last] = value
    folder = write(tmp_path / "run", arrays, about)
    with pytest.raises(UserError) as error:
        open_run(folder)
    assert FILE in str(error.value)
    assert message.replace("\\", "") in str(error.value)


def test_what_could_not_be_opened_again_is_refused_before_it_is_trained(monkeypatch):
    wide = np.zeros((40, 8, 2100, 1), np.uint8)
    split = data.Split(wide, np.arange(40, dtype=np.int32) % 2)
    config = resolve(Config(preset="puppet_xs", puppeteer="stored", width=8, batch_size=8))
    assert plan(config, data.Dataset(split, split, ("a", "b"))).about.image_size == (8, 2100)
    monkeypatch.setattr(model_file, "MOST_PIXELS", 8 * 2099)
    with pytest.raises(UserError, match=r"could not be opened again: the images' size is \[8, 2100\]"):
        plan(config, data.Dataset(split, split, ("a", "b")))
    given = Config(preset="puppet_xs", puppeteer="ode", puppeteer_options='{"steps_per_layer": 5000}', batch_size=8)
    with pytest.raises(UserError, match="steps_per_layer is 5000, expected at most 4096"):
        plan(resolve(given), data.Dataset(split, split, ("a", "b")))


def test_foreign_files_are_refused(run, tmp_path):
    path = tmp_path / FILE
    good = (run / FILE).read_bytes()
    pickle, archive = b"\x80\x04\x95 a pickle" * 20, b"PK\x03\x04" * 50
    for content in (b"", good[:4], good[:500], good[:-1], pickle, archive, b"\xff" * 100, b"{}"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a whole safetensors file"):
            open_run(tmp_path)
    some = {"w": np.zeros(3, np.float32)}
    for metadata, message in [
        ({}, "another program"),
        ({KEY: "[1"}, "not a whole safetensors file of a model"),
        ({KEY: "[1]"}, "another program"),
        ({KEY: '{"format": "puppet-jax model 4"}'}, r"another version of puppet-jax \(format 'puppet-jax model 4'"),
        (
            {"format": "puppet-jax parameters 3", "about": "{}"},
            r"version of puppet-jax \(format 'puppet-jax parameters",
        ),
    ]:
        safetensors.numpy.save_file(some, path, metadata=metadata)
        with pytest.raises(UserError, match=message):
            open_run(tmp_path)
        with pytest.raises(ValueError, match=message):
            pj.load_pretrained(path)
    path.unlink()
    with pytest.raises(ValueError, match="does not exist"):
        pj.load_pretrained(str(path))
    os.mkfifo(path)
    with pytest.raises(UserError, match="not a regular file"):
        open_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("puppet.head_bias", lambda old: old * np.nan, r"puppet\.head_bias holds values that are no numbers"),
        ("puppet.head", lambda _: np.zeros((3, 4), np.float32), r"puppet\.head is float32\[3, 4\], expected float32"),
        ("puppet.head_bias", None, "puppet.head_bias is missing"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(run, tmp_path, name, change, message):
    arrays = model_file.read(run / FILE)[0]
    old = arrays.pop(name, None)
    if change:
        arrays[name] = change(old)
    with pytest.raises(UserError, match=message):
        open_run(write(tmp_path, arrays, header(run)))
