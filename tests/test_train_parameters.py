"""Saved parameters: a round trip, and refusals of every kind of wrong file."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from train import parameters
from train.build import build
from train.config import Config, resolve, to_json
from train.errors import UserError

SHAPE = {"num_classes": 10, "in_channels": 1}


@pytest.fixture(scope="module")
def config():
    return resolve(Config(puppeteer="ode", seed=5))


@pytest.fixture(scope="module")
def model(config):
    model = build(config, **SHAPE)
    # As after training: not what the seed alone would give.
    nnx.update(model, jax.tree.map(lambda x: x + 0.25, nnx.state(model, nnx.Param)))
    return model


@pytest.fixture
def saved(tmp_path, config, model):
    path = tmp_path / "params.safetensors"
    parameters.save(path, nnx.state(model, nnx.Param), {"config": to_json(config), "model": SHAPE, "epoch": 3})
    return path


def test_round_trip_is_exact(saved, config, model):
    restored, its_config = parameters.restore(saved)
    assert its_config == config
    expected, got = (parameters.flat(nnx.state(m, nnx.Param)) for m in (model, restored))
    assert expected.keys() == got.keys()
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
    np.testing.assert_array_equal(restored(images), model(images))


def test_file_is_plain_safetensors_with_dotted_names_and_leaves_nothing_behind(saved, model):
    arrays = safetensors.numpy.load_file(saved)
    assert "puppet.head_bias" in arrays
    assert "puppet.norm_scale.0" in arrays
    np.testing.assert_array_equal(arrays["puppet.head"], model.puppet.head[...])
    _, about = parameters.load(saved)
    assert about["epoch"] == 3
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_failed_save_keeps_the_old_file(saved, config, model, monkeypatch):
    old = saved.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(parameters.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        parameters.save(saved, nnx.state(model, nnx.Param), {})
    assert saved.read_bytes() == old


@pytest.mark.parametrize("length", [0, 4, 8, 100, 1000, -1])
def test_a_truncated_file_is_refused(saved, length):
    saved.write_bytes(saved.read_bytes()[:length])
    with pytest.raises(UserError, match=r"params\.safetensors: not a whole safetensors file"):
        parameters.load(saved)


def test_other_formats_are_refused(tmp_path):
    path = tmp_path / "file"
    for content in (b"PK\x03\x04 a zip of pickles", b"\x80\x04\x95 a pickle" * 20, b"{}", bytes(64)):
        path.write_bytes(content)
        with pytest.raises(UserError):
            parameters.load(path)
    with pytest.raises(UserError, match="no such file"):
        parameters.load(tmp_path / "absent")
    with pytest.raises(UserError):
        parameters.load(tmp_path)


def test_what_0_1_0_wrote_is_refused_with_the_version_to_use(tmp_path):
    path = tmp_path / "params.safetensors"
    safetensors.numpy.save_file({"w": np.zeros(3, np.float32)}, path, metadata={"format": "puppet-jax parameters 1"})
    with pytest.raises(UserError, match=r"puppet-jax 0\.1\.0; use that version"):
        parameters.load(path)


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    safetensors.numpy.save_file({"w": np.zeros(3, np.float32)}, path)
    with pytest.raises(UserError, match="another program"):
        parameters.load(path)


def test_a_mismatch_names_the_parameter_and_changes_nothing(saved, config):
    arrays, _ = parameters.load(saved)
    fresh = build(config, **SHAPE)
    before = parameters.flat(nnx.state(fresh, nnx.Param))
    wrong_shape = arrays | {"puppet.head": np.zeros((3, 10), np.float32)}
    missing = {name: array for name, array in arrays.items() if name != "puppet.head_bias"}
    wrong_type = arrays | {"puppet.head": arrays["puppet.head"].astype(np.float64)}
    unknown = arrays | {"extra": np.zeros(1, np.float32)}
    for bad, message in [
        (wrong_shape, r"puppet\.head is float32\[3, 10\], expected float32\[32, 10\]"),
        (missing, "puppet.head_bias is missing"),
        (wrong_type, "puppet.head is float64"),
        (unknown, "extra is not a parameter"),
    ]:
        with pytest.raises(UserError, match=message):
            parameters.assign(fresh, bad)
    after = parameters.flat(nnx.state(fresh, nnx.Param))
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


def test_a_configuration_of_another_version_is_refused(tmp_path, config, model):
    path = tmp_path / "params.safetensors"
    about = {"config": to_json(config) | {"momentum": 0.9}, "model": SHAPE}
    parameters.save(path, nnx.state(model, nnx.Param), json.loads(json.dumps(about)))
    with pytest.raises(UserError, match="momentum"):
        parameters.restore(path)
