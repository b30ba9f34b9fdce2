"""A trained run becomes one file that answers as the run's model."""

import numpy as np
import pytest
from flax import nnx

import puppet_jax as pj
from train import parameters
from train.__main__ import main
from train.build import build
from train.config import Config, resolve, to_json
from train.trained import FILE

MODEL = {"num_classes": 3, "in_channels": 1}
NAMES = ["one", "two", "a \x1b[31mred\n name"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = resolve(Config(puppeteer="stored", width=4))
    about = {"config": to_json(config), "model": MODEL, "images": {"size": [8, 12], "class_names": NAMES}}
    model = build(config, **MODEL)
    parameters.save(folder / FILE, nnx.state(model, nnx.Param), {**about, "epoch": 1, "step": 7})
    return folder, model


def test_the_file_answers_as_the_model_and_knows_its_classes(run, tmp_path, rng, capsys):
    folder, model = run
    file = tmp_path / "a.puppet"
    file.write_bytes(b"before")
    command = ["export", str(folder), str(file), "--platforms", "cpu", "tpu"]
    assert main(command) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert file.read_bytes() == b"before"
    assert main([*command, "--overwrite"]) == 0
    assert list(tmp_path.iterdir()) == [file]
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"written: {file} ({file.stat().st_size:,} bytes)\n"
    loaded = pj.load(file)
    images = rng.integers(0, 256, (2, 8, 12, 1), dtype=np.uint8)
    np.testing.assert_allclose(loaded(images).logits, model(images), atol=1e-4)
    assert loaded.classes == tuple(NAMES)
    assert loaded.platforms == ("cpu", "tpu")
    assert "8x12 pixels" in loaded.preprocessing
    assert "grey" in loaded.preprocessing


def test_what_cannot_be_written_is_something_to_put_right(run, tmp_path, capsys, monkeypatch):
    folder, _ = run
    for arguments, message in [
        ([folder, tmp_path / "none" / "a"], "is no folder"),
        ([folder, tmp_path], "is there already"),
        ([folder, tmp_path, "--overwrite"], "is there already"),
        ([tmp_path / "absent", tmp_path / "a"], "does not exist"),
        ([tmp_path, tmp_path / "a"], "no such file yet"),
    ]:
        assert main(["export", *map(str, arguments)]) == 2
        assert message in capsys.readouterr().err

    assert list(tmp_path.iterdir()) == []
