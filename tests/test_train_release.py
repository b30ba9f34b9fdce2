"""A trained run becomes a model of the package, and a file that runs by itself, with the same answers."""

import json
import re
from importlib import resources
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from safetensors.numpy import load_file
from trained_runs import SUMMARY, picture, save_run

import puppet_jax as pj
from bench import results_file
from puppet_jax import _pretrained as pretrained
from train.__main__ import main
from train.config import Measurement
from train.data.images import read_image
from train.runs.model_file import open_run

NAMES = [*"012345678", "a \x1b[31mred\n name"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release") / "run"
    fields = {"measurement": Measurement(bin=0.5, depth=2), "puppeteer_options": '{"basis": 4}'}
    fields |= {"puppeteer": "continuous", "teacher": str(folder.parent / "teacher")}
    fields |= {"start_from": str(folder.parent / "start")}
    groups = pj.summary(save_run(folder, [8, 12], NAMES, 1, **fields))
    counted = {name: getattr(groups, name) for name in ("generator", "normalisation", "head", "total", "static_twin")}
    summary = SUMMARY | {"test_accuracy": 0.75, "test_images": 4, "test_correct": 3}
    summary |= {"test_loss": 0.5, "parameters": counted}
    summary["accuracy_by_depth"] = [{"depth": 3, "images": 4, "accuracy": 0.75}]
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """The package's folder of weights, empty."""
    monkeypatch.setattr(pretrained.resources, "files", lambda _: tmp_path)
    return tmp_path / "weights"


def release(run, weights, *more):
    return main(["release", str(run), "--name=of_digits", "--out", str(weights), *more])


def test_what_is_released_or_exported_answers_as_the_run(run, weights, tmp_path, rng, capsys):
    assert pj.list_pretrained() == ()
    assert release(run, weights, "--data-note", "Eight by eight pixels.") == 0
    assert pj.list_pretrained() == ("of_digits",)
    assert capsys.readouterr().err.endswith('puppet_jax.load_pretrained("of_digits") opens it\n')
    model, trained = pj.load_pretrained("of_digits"), open_run(run).model
    images = rng.integers(0, 256, (4, 8, 12, 1), dtype=np.uint8)
    np.testing.assert_array_equal(model(images), trained(images))
    assert (model.classes, model.image_shape) == (tuple(NAMES), (8, 12, 1))
    assert model.measurement == pj.Measure(depth=2, bin=0.5)

    info, card = pj.pretrained_info("of_digits"), (weights / "of_digits.md").read_text()
    assert (info["accuracy"], info["class_names"]) == (0.75, NAMES)
    assert info["bytes"] == (weights / "of_digits.safetensors").stat().st_size
    stored = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    learned = ("distilled from `teacher`", "with the parameters of `start`", "cosine decay after a warm-up of 10%")
    assert pj.summary(model).costs[1] in card
    for words in (f"{stored:,} parameters", "75.00%", "Eight by eight pixels.", "Limits", *learned):
        assert words in card
    for text in (card, json.dumps(info)):
        assert str(run.parent) not in text  # nothing of this machine

    file = tmp_path / "a.puppet"
    file.write_bytes(b"before")
    command = ["export", str(weights / "of_digits.safetensors"), str(file), "--platforms", "cpu", "tpu"]
    assert main(command) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert file.read_bytes() == b"before"
    assert main([*command, "--overwrite"]) == 0
    assert set(tmp_path.iterdir()) == {file, weights}
    assert capsys.readouterr() == ("", f"written: {file} ({file.stat().st_size:,} bytes)\n")
    loaded = pj.load(file)
    np.testing.assert_allclose(loaded(images).logits, model(images), atol=1e-4)
    paths = [picture(tmp_path / "a.png", 0, (50, 30), "RGBA"), picture(tmp_path / "b.png", 1, (9, 40))]
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.open(paths[0]).save(paths[0], exif=turned)
    opened = [Image.open(path) for path in paths]
    expected = nnx.softmax(model(np.stack([read_image(path, (8, 12), 1) for path in paths])))
    for pictures in (opened, [opened[0], np.asarray(opened[1])]):
        np.testing.assert_allclose(loaded.predict_images(pictures).probabilities, expected, atol=1e-4)
    best = int(expected[1].argmax())
    (told,) = loaded.predict_images(opened[1]).top()
    assert told == (NAMES[best], pytest.approx(float(expected[1, best]), abs=1e-4))
    assert (loaded.classes, loaded.platforms) == (tuple(NAMES), ("cpu", "tpu"))
    assert "8x12 pixels" in loaded.preprocessing
    assert "grey" in loaded.preprocessing


def test_the_best_parameters_are_those_of_the_epoch_that_had_them(run, weights, tmp_path, rng, capsys):
    fields = {"measurement": Measurement(bin=0.5, depth=2), "puppeteer_options": '{"basis": 4}'}
    best = save_run(tmp_path / "best", [8, 12], NAMES, 1, scale=0.8, puppeteer="continuous", **fields)
    for command in ("predict", "eval", "export", "release"):
        more = {"predict": ["a.png"], "export": ["b"], "release": ["--name=c", "--out=d"]}.get(command, [])
        assert main([command, str(run), *more, "--best"]) == 2
        assert f"--best: {run} has no best.safetensors" in capsys.readouterr().err
    (tmp_path / "best" / "params.safetensors").rename(run / "best.safetensors")
    assert release(run, weights, "--best") == 0
    images = rng.integers(0, 256, (4, 8, 12, 1), dtype=np.uint8)
    np.testing.assert_array_equal(pj.load_pretrained("of_digits")(images), best(images))
    info, card = pj.pretrained_info("of_digits"), (weights / "of_digits.md").read_text()
    assert (info["accuracy"], info["epoch"]) == (1.0, 1)
    assert "100.00% of 4 test images, after epoch 1, the best of all on these;" in card
    assert "| depth |" not in card, "known of the last epoch alone"
    (run / "best.safetensors").unlink()


def test_what_lies_elsewhere_is_opened_by_its_path_as_its_card_says(run, weights, tmp_path, rng, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert release(run, "elsewhere") == 0
    assert pj.list_pretrained() == ()
    images = rng.integers(0, 256, (4, 8, 12, 1), dtype=np.uint8)
    expected = pj.load_pretrained(run)(images)
    said = capsys.readouterr().err.splitlines()[-1].removesuffix(" opens it")
    (line,) = re.findall(r"`(puppet_jax.load_.*?)`", Path("elsewhere/of_digits.md").read_text())
    for text, folder in ((said, tmp_path), (line, tmp_path / "elsewhere")):
        monkeypatch.chdir(folder)
        np.testing.assert_array_equal(eval(text, {"puppet_jax": pj})(images), expected)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty/params\.safetensors.*no such file yet"):
        pj.load_pretrained(tmp_path / "empty")


def test_what_cannot_be_written_leaves_nothing_and_unknown_models_are_refused(
    run, weights, tmp_path, capsys, monkeypatch
):
    assert release(run, weights) == 0
    before = (weights / "of_digits.safetensors").read_bytes()
    for arguments, message in [
        (["release", tmp_path, "--name=a", "--out", weights], "has no summary.json"),
        (["release", run, "--name=../a", "--out", weights], "--name: got '../a'"),
        (["release", run, "--name=of_digits", "--out", weights], "--overwrite"),
        (["export", run, tmp_path / "none" / "a"], "a file in a folder that exists"),
        (["export", run, tmp_path, "--overwrite"], "is there already"),
        (["export", run, tmp_path / "a", "--platforms"], "--platforms: got none"),
    ]:
        assert main(list(map(str, arguments))) == 2
        assert message in capsys.readouterr().err

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)  # the card, when the weights are written
        assert main(["release", str(run), "--name=b", "--out", str(weights)]) == 2
    assert "error: No space left on device" in capsys.readouterr().err
    assert {path.name for path in tmp_path.rglob("*.*")} == {"of_digits.safetensors", "of_digits.md"}
    assert release(run, weights, "--overwrite") == 0
    assert (weights / "of_digits.safetensors").read_bytes() == before
    with pytest.raises(ValueError, match=r"pretrained model \(of_digits\); did you mean of_digits"):
        pj.load_pretrained("../of_digits")


def test_models_of_the_package_load_and_say_what_they_are():
    for name in pj.list_pretrained():
        info, model = pj.pretrained_info(name), pj.load_pretrained(name)
        measured = json.loads((results_file.FOLDER / "pretrained.json").read_text())["models"][name]
        assert (measured["bytes"], measured["bits"]["32"]["accuracy"]) == (info["bytes"], info["accuracy"])
        assert model(np.zeros((*info["image_size"], info["create"]["in_channels"]), np.uint8)).shape == (10,)
        card = (resources.files("puppet_jax") / "weights" / f"{name}.md").read_text()
        assert f"{info['accuracy']:.2%}" in card
        counted = pj.summary(model)
        assert counted.total == info["parameters"]["total"]
        assert ";\n  ".join(counted.costs) in card
    # The last: 3×3 kernels of three channels, then factors, 105 products of rank one.
    factored = (2 * 16**2 + 4 * 8**2) * 105 * (96 + 9 + 96)
    assert counted.multiplications == 32**2 * 27 * 96 + factored + 96 * 10
    assert counted.map_numbers == 32**2 * (3 + 96)
    arrays = load_file(pretrained.weights_folder() / f"{name}.safetensors").values()
    assert counted.int8_bytes == sum(array.nbytes for array in arrays)
