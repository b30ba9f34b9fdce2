"""``python -m train eval``: the run's own numbers again, and NumPy's."""

import json
import types

import numpy as np
import pytest
from trained_runs import save_run

from train import data
from train.__main__ import main
from train.commands import evaluate
from train.errors import UserError
from train.runs import parameters


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short training by the command line. Images left over in the last batch are part of what is tested."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    flags = ["--puppeteer=stored", "--width=8", "--max-steps=60", "--batch-size=32", "--warmup=0"]
    assert main(["train", *flags, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def summary(run):
    return json.loads((run / "summary.json").read_text())


def evaluated(capsys, *arguments) -> dict:
    assert main(["eval", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_numbers_are_those_of_the_summary_to_the_last_digit(run, summary, capsys, tmp_path):
    found = evaluated(capsys, run)
    assert found["correct"] == summary["test_correct"]
    assert found["images"] == summary["test_images"] == 355
    assert found["accuracy"] == summary["test_accuracy"]
    assert found["loss"] == summary["test_loss"]
    assert found["accuracy_by_depth"] == summary["accuracy_by_depth"]
    assert found["clipped"] == summary["clipped"]["test"]
    assert found["complexity_mean_bits"] == pytest.approx(summary["complexity_mean_bits"]["test"], rel=1e-6)
    assert found["reported"] == {key: found[key] for key in ("correct", "accuracy", "loss")}
    assert found["compiled"] is None
    assert 0.1 < found["accuracy"] < 1  # neither nothing nor everything

    text = evaluate.report(found)
    assert f"{summary['test_accuracy']:.2%} ({summary['test_correct']} of 355, as reported)" in text
    assert f"{summary['test_loss']:.4f} nats" in text
    assert text.splitlines()[-len(summary["accuracy_by_depth"]) - 1].split() == ["depth", "images", "accuracy"]
    (tmp_path / "params.safetensors").write_bytes((run / "params.safetensors").read_bytes())
    (tmp_path / "summary.json").write_text(json.dumps(summary | {"test_correct": 1}))
    assert main(["eval", str(tmp_path)]) == 0
    assert "of 355, 1 reported)" in capsys.readouterr().out


def test_the_numbers_are_numpys(tmp_path, capsys):
    model = save_run(tmp_path, [8, 8], list("0123456789"), 1, puppeteer="continuous")
    found = evaluated(capsys, tmp_path, "--batch-size", "100", "--compiled")
    split = data.load("digits", None, "test").test
    logits = np.asarray(model(split.images), np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    loss = np.log(np.exp(shifted).sum(-1)) - shifted[np.arange(355), split.labels]
    _, depth = model.measure(split.images)
    correct = logits.argmax(-1) == split.labels
    assert found["correct"] == correct.sum()
    assert found["loss"] == pytest.approx(loss.mean(), rel=1e-5)
    assert found["depth_mean"] == pytest.approx(np.mean(np.asarray(depth)), rel=1e-6)
    for row in found["accuracy_by_depth"]:
        chosen = np.asarray(depth) == row["depth"]
        assert (row["images"], row["accuracy"]) == (chosen.sum(), pytest.approx(correct[chosen].mean()))
    assert sum(row["images"] for row in found["accuracy_by_depth"]) == 355

    compiled = found["compiled"]
    assert compiled["same_class"] == 355
    assert compiled["correct"] == found["correct"]
    assert 0 <= compiled["largest_logit_difference"] < 1e-3


@pytest.mark.parametrize("content", ["[]", "{", "{}", '{"evaluated_on": "test", "test_images": "355"}', "\0"])
def test_a_damaged_summary_is_no_report(tmp_path, content):
    (tmp_path / "summary.json").write_text(content)
    run = types.SimpleNamespace(folder=tmp_path, released=None)
    assert evaluate._reported(run, "test", 355) is None


def test_images_that_the_run_was_trained_on_are_called_so(run, capsys):
    assert main(["eval", str(run), "--evaluate-on", "validation", "--json"]) == 0
    said = capsys.readouterr()
    assert "trained on" in said.err
    found = json.loads(said.out)
    assert found["evaluated_on"] == "validation"
    assert found["images"] == len(data.load("digits", None, "validation").test)
    assert found["reported"] is None


def test_another_data_set_than_the_models_is_refused(tmp_path):
    save_run(tmp_path, [8, 8], ["a", "b", "c", "d"], 1)
    with pytest.raises(UserError, match=r"num_classes = 10, the model of .* 4"):
        evaluate.run(evaluate.Evaluate(tmp_path))


def test_what_to_put_right_is_said(run, tmp_path, capsys):
    (tmp_path / "damaged").mkdir()
    for changes, message in [
        ({"data": 7}, "data is 7"),
        ({"data_dir": ["x"]}, "its header is damaged"),
        ({"evaluate_on": "train"}, "evaluate_on is 'train'"),
        ({"batch_size": 10**9}, "batch_size is"),
        ({"batch_size": True}, "batch_size is True"),
    ]:
        arrays, about = parameters.load(run / "params.safetensors")
        about["config"] |= changes
        parameters.save(tmp_path / "damaged" / "params.safetensors", arrays, about)
        with pytest.raises(UserError, match=message):
            evaluate.run(evaluate.Evaluate(tmp_path / "damaged"))
    for arguments, message in [
        ([str(tmp_path / "absent")], "does not exist"),
        ([str(run / "summary.json")], "is no folder"),
        ([str(tmp_path)], "no such file yet"),
        ([str(run), "--batch-size", "0"], "--batch-size: got 0"),
    ]:
        assert main(["eval", *arguments]) == 2
        assert message in capsys.readouterr().err
