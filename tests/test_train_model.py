"""A user's own CNN through every command; models to start from; released and pretrained models in a run's place."""

import dataclasses
import json
import re
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from test_train_resume import cut, set_up
from trained_runs import metrics, picture, same_parameters, save_run, small_digits

import puppet_jax as pj
from bench import evaluated
from puppet_jax import _pretrained as pretrained
from puppet_jax._pretrained import flat as params_of
from train import data
from train.__main__ import main
from train.commands.train import parse
from train.config import Config, resolve
from train.errors import UserError
from train.runs.model_file import open_run
from train.runs.run_folder import described, write_json
from train.steps.loop import plan

OWN = ["--model=own_cnn:make", "--batch-norm=group", "--puppeteer=own_cnn:puppeteer"]
OWN += ['--puppeteer-options={"basis": 4, "hidden": 8}', "--measurement.function=own_cnn:measure"]
FLAGS = [*OWN, "--batch-size=12", "--max-steps=15", "--checkpoint-steps=2"]  # an epoch of 12 steps, and 3 more


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "run"
    with pytest.MonkeyPatch.context() as patch:
        set_up(patch)
        assert main([*FLAGS, "--out", str(folder)]) == 0
    return folder


def flat(model):
    return params_of(nnx.state(model, nnx.Param))


def test_an_own_cnn_goes_through_every_command(run, tmp_path, monkeypatch, capsys):
    set_up(monkeypatch)
    trained = open_run(run)
    test = small_digits().test
    expected = np.asarray(trained.model(test.images))
    assert trained.model.puppet.names == ("stem", "blocks.0.conv", "blocks.1.conv")
    np.testing.assert_array_equal(trained.model(test.images), expected)  # nothing is dropped out

    def answer(*arguments):
        capsys.readouterr()
        assert main(list(map(str, arguments))) == 0
        return capsys.readouterr().out

    codes = []  # in another thread than the main one too, where no signal can be handled
    thread = threading.Thread(target=lambda: codes.append(main(["eval", str(run), "--json"])))
    capsys.readouterr()
    thread.start()
    thread.join()
    assert codes == [0]
    found = json.loads(capsys.readouterr().out)
    assert found["correct"] == found["reported"]["correct"] == np.sum(expected.argmax(-1) == test.labels)
    assert evaluated.measured(run)["bits"]["32"]["accuracy"] == np.mean(expected.argmax(-1) == test.labels)
    image = picture(tmp_path / "image.png", 3)
    said = answer("predict", run, image, "--json")
    answer("export", run, tmp_path / "file", "--platforms", "cpu")
    np.testing.assert_allclose(pj.load(tmp_path / "file")(test.images).logits, expected, atol=1e-4)

    weights = tmp_path / "weights"
    answer("release", run, "--name=own", "--out", weights)
    assert answer("predict", weights / "own.safetensors", image, "--json") == said
    monkeypatch.setattr(pretrained.resources, "files", lambda _: tmp_path)
    np.testing.assert_array_equal(pj.load_pretrained("own")(test.images), expected)
    assert "the CNN of `own_cnn:make`" in (weights / "own.md").read_text()
    assert str(tmp_path) not in (weights / "own.md").read_text() + json.dumps(pj.pretrained_info("own"))

    monkeypatch.setitem(sys.modules, "own_cnn", None)
    for command in (["eval", run], ["predict", weights / "own.safetensors", image], ["--resume", run, "--data=digits"]):
        (run / "summary.json").rename(run / "summary")
        try:
            assert main(list(map(str, command))) == 2
        finally:
            (run / "summary").rename(run / "summary.json")
        assert re.search(r"own_cnn:\w+: cannot be imported here", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model=own_cnn"], "expected MODULE:FUNCTION"),
        (["--model=own_cnn:absent"], "own_cnn:absent: cannot be imported here (AttributeError"),
        (["--model=own_cnn:make"], "error: --model own_cnn:make: the module has 2 nnx.BatchNorm"),
        (["--model=own_cnn:make"], "choose --batch-norm group (each"),
        (["--model=own_cnn:maps"], "logits"),
        ([*OWN, "--preset=puppet_s"], "--preset: got 'puppet_s', expected none with --model"),
        ([*OWN, "--dtype=bfloat16"], "--dtype: got 'bfloat16'"),
        (["--batch-norm=group"], "none without --model"),
        (["--start-from=absent"], "absent does not exist, expected the folder of a run"),
        (["--start-from=puppet_s_cifar1"], "did you mean puppet_s_cifar10?"),
        (["--start-from=puppet_s_cifar10"], "a model of images of 3 channels, the data have 1"),
        (["--teacher=puppet_s_cifar10"], "in_channels is 3 of the teacher, 1 of the data"),
    ],
)
def test_what_cannot_be_trained_is_said_and_leaves_nothing(flags, message, tmp_path, monkeypatch, capsys):
    set_up(monkeypatch)
    assert main([*flags, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_learns_from_a_teacher_that_has_ended_and_resumes_to_the_bit_though_it_draws(
    run, tmp_path, monkeypatch, capsys
):
    set_up(monkeypatch)
    assert main([*FLAGS, "--teacher", str(run), "--out", str(tmp_path / "taught")]) == 0
    assert metrics(run)[0]["train_loss"] != metrics(tmp_path / "taught")[0]["train_loss"]
    with monkeypatch.context() as patch:
        cut(patch, 7)
        shutil.copytree(run, tmp_path / "teacher")
        assert main([*FLAGS, "--teacher", str(tmp_path / "teacher"), "--out", str(tmp_path / "cut")]) == 143
    assert main([*FLAGS, "--teacher", str(tmp_path / "cut"), "--out", str(tmp_path / "early")]) == 2
    assert "this run has not ended" in capsys.readouterr().err
    shutil.copytree(tmp_path / "cut", tmp_path / "other")
    about = json.loads((tmp_path / "cut" / "config.json").read_text())
    write_json(tmp_path / "other" / "config.json", about | {"teacher": open_run(tmp_path / "taught").digest()})
    assert main(["--resume", str(tmp_path / "other")]) == 2
    assert "not the model that the run began to learn from" in capsys.readouterr().err
    (tmp_path / "teacher").rename(tmp_path / "moved")
    assert main(["--resume", str(tmp_path / "cut")]) == 2
    assert "if it lies elsewhere now, name that by the flag" in capsys.readouterr().err
    assert main(["--resume", str(tmp_path / "cut"), "--teacher", str(tmp_path / "moved")]) == 0
    assert same_parameters(tmp_path / "cut", tmp_path / "taught")
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "taught")
    assert [line["step"] for line in metrics(tmp_path / "cut")] == [12, 15]


def test_a_card_tells_the_model_that_its_run_began_with(run, tmp_path, monkeypatch, capsys):
    set_up(monkeypatch)
    tuned = tmp_path / "tuned"
    assert main([*OWN, "--batch-size=12", "--max-steps=2", "--start-from", str(run), "--out", str(tuned)]) == 0
    assert main(["release", str(tuned), "--name=of_tuned", "--out", str(tmp_path)]) == 0
    digest = open_run(run).digest()
    assert described(tuned).began == open_run(tmp_path / "of_tuned.safetensors").about.began == digest
    assert f"begun with the parameters of `run`, SHA-256 `{digest[:16]}`" in (tmp_path / "of_tuned.md").read_text()


def test_a_run_begins_with_the_parameters_of_another_and_draws_a_head_for_other_classes(run, tmp_path, capsys):
    digits = small_digits()
    few = [data.Split(s.images[s.labels < 4], s.labels[s.labels < 4]) for s in (digits.train, digits.test)]
    fewer, others = data.Dataset(*few, tuple("0123")), dataclasses.replace(digits, class_names=tuple("abcdefghij"))
    preset = tmp_path / "preset"
    save_run(preset, [8, 8], list("0123456789"), 1, width=4)
    for source, head in ((preset, "puppet.head"), (run, "puppet.body.classifier")):
        config = resolve(parse(["--start-from", str(source), "--batch-size=8", "--seed=5"]))
        before = flat(open_run(source).model)
        same, of_fewer, of_others = (flat(plan(config, each).model) for each in (digits, fewer, others))
        assert capsys.readouterr().err.count("its classes are others, so the head is drawn anew") == 2
        assert before.keys() == same.keys() == of_fewer.keys() == of_others.keys()
        assert any(name.startswith(head) for name in before)
        for name in before:
            np.testing.assert_array_equal(same[name], before[name])
            if name.startswith(head):
                assert of_fewer[name].shape[-1] == 4
                assert not (before[name].any() and np.array_equal(of_others[name], before[name]))
            else:
                np.testing.assert_array_equal(of_fewer[name], before[name])
                np.testing.assert_array_equal(of_others[name], before[name])


def test_pretrained_models_are_welcome_where_runs_are(tmp_path, monkeypatch, capsys, rng):
    name = "puppet_s_cifar10"
    images = rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    logits = np.asarray(pj.load_pretrained(name)(images))
    classes = pj.pretrained_info(name)["class_names"]
    split = data.Split(images, logits.argmax(-1).astype(np.int32))
    sets = data.Dataset(split, split, tuple(classes))
    monkeypatch.setattr(data, "load", lambda *_, **__: sets)
    assert main(["eval", name, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["correct"], found["data"], found["reported"]) == (12, "cifar10", None)
    image = picture(tmp_path / "in.png", 3, (32, 32), "RGB")
    assert main(["predict", name, str(image), "--json"]) == 0
    said = capsys.readouterr().out
    file = Path(pretrained.__file__).with_name("weights") / f"{name}.safetensors"
    assert main(["predict", str(file), str(image), "--json"]) == 0
    assert capsys.readouterr().out == said
    other = dataclasses.replace(sets, class_names=tuple("0123456789"))
    monkeypatch.setattr(data, "load", lambda *_, **__: other)
    assert main(["eval", name]) == 2
    assert "class_names = 0, 1, 2" in capsys.readouterr().err
    taught = resolve(Config(data="x", teacher=name, batch_size=4))
    with pytest.raises(UserError, match=r"class_names is airplane, .* of the teacher, 0, 1, .* of the data"):
        plan(taught, other)
