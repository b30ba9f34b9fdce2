"""The studies' command, on runs of seconds."""

import dataclasses
import json
import time
import types

import numpy as np
import pytest

from bench import accuracy, precision, study
from train.commands.train import parse

QUICK = study.read(study.FOLDER / "quick.toml")


@pytest.fixture
def options(tmp_path):
    return accuracy.Accuracy(study="quick", folder=tmp_path / "runs", output=tmp_path)


def result(options):
    return json.loads((options.output / "quick.json").read_text())


def test_runs_what_is_missing_once_and_its_precision_is_measured(options, capsys, monkeypatch):
    assert accuracy.run(dataclasses.replace(options, rows=("main",), jobs=2)) == 0
    assert "| static |" in capsys.readouterr().out
    found = result(options)
    runs, (line,) = found["runs"], found["tables"]["main"]
    assert sorted(each["seed"] for each in runs) == [0, 1]  # two at a time end in any order
    assert line["accuracy"] == pytest.approx(sum(each["accuracy"] for each in runs) / 2)
    assert line["least"] == min(each["accuracy"] for each in runs)
    assert line["generator"] == 8 * 9 + 5 * 8 * 8 * 9
    assert all(each["revision"] is None or len(each["revision"]) >= 40 for each in runs)
    assert (line["kernel_compression"], line["evaluated_on"]) == (1.0, "test")
    assert "static CNN, kernels stored" in (options.output / "quick_pareto.svg").read_text()
    assert (options.output / "quick_pareto.png").stat().st_size > 5000

    started = []
    monkeypatch.setattr(accuracy, "_start", lambda options, row, *_: started.append(row.name) or pytest.fail(row.name))
    assert accuracy.run(dataclasses.replace(options, rows=("static",))) == 0  # not trained again
    assert accuracy.run(dataclasses.replace(options, list=True)) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if "-m train" in line] == [
        *("done", "missing", "done"),
    ]
    # A row whose flags change is another measurement.
    changed = dataclasses.replace(QUICK.rows[0], arguments=(*QUICK.rows[0].arguments, "--learning-rate=0.01"))
    assert accuracy._key(changed, 0) not in accuracy._read(options.output / "quick.json")

    assert accuracy.run(dataclasses.replace(options, precision=options.folder / "static-seed0")) == 0
    measured = json.loads((options.output / "precision_digits.json").read_text())
    (run,) = (each for each in runs if each["seed"] == 0)
    assert measured["accuracy_exact"] == pytest.approx(run["accuracy"])
    assert measured["target"]["reached"]


def test_stops_in_time_and_goes_on(options, monkeypatch):
    """The time is up once a checkpoint is there, and then once the run has been resumed."""
    flags = {"max-steps": 40000, "epochs": 900, "checkpoint-steps": 50}
    kept = [flag for flag in QUICK.rows[0].arguments if flag.split("=")[0][2:] not in flags]
    arguments = (*kept, *(f"--{name}={value}" for name, value in flags.items()))
    row = dataclasses.replace(QUICK.rows[0], name="long", arguments=arguments, seeds=(0,))
    monkeypatch.setattr(accuracy.studies, "read", lambda _: dataclasses.replace(QUICK, rows=(row,)))
    run, log = options.folder / "long-seed0", options.folder / "long-seed0.log"

    def stop_when(condition):
        clock = lambda: 1e9 if condition() else 0.0  # noqa: E731
        monkeypatch.setattr(accuracy, "time", types.SimpleNamespace(monotonic=clock, sleep=time.sleep))

    stop_when(lambda: any(path.name.isdigit() for path in run.glob("checkpoints/*")))
    assert accuracy.run(dataclasses.replace(options, minutes=1.0)) == 0
    assert result(options)["runs"] == []
    assert "interrupted; go on with" in log.read_text()
    stop_when(lambda: "resumed after step" in log.read_text())
    assert accuracy.run(dataclasses.replace(options, minutes=1.0)) == 0
    assert log.read_text().count("interrupted; go on with") == 2


def test_a_failed_run_is_told_with_its_log(options, monkeypatch, capsys):
    row = dataclasses.replace(QUICK.rows[0], name="bad", arguments=("--data=no-such-set",), seeds=(0,))
    monkeypatch.setattr(accuracy.studies, "read", lambda _: dataclasses.replace(QUICK, rows=(row,)))
    assert accuracy.run(options) == 1
    assert "bad-seed0.log" in capsys.readouterr().err
    assert "no-such-set" in (options.folder / "bad-seed0.log").read_text()


@pytest.mark.parametrize("name", study.NAMES)
def test_rows_of_a_study_have_flags_that_train_takes(name):
    for row in study.read(study.FOLDER / f"{name}.toml").rows:
        config = parse([*row.arguments, "--seed", "0"])
        assert config.puppeteer == row.puppeteer
        assert (config.evaluate_on == "test") == (row.part not in ("design", "bins", "ablation"))


@pytest.mark.parametrize(
    ("rows", "told"),
    [('[{ name = "a" }]', "lacks 'what'"), ('[{ name = "a", what = "" }, { name = "a", what = "" }]', "named a")],
)
def test_a_study_that_cannot_be_read_is_named(tmp_path, rows, told):
    path = tmp_path / "mine.toml"
    path.write_text(f'output = "mine.json"\nnote = ""\n[parts.main]\nrows = {rows}\n')
    with pytest.raises(ValueError, match=rf"mine\.toml: .*{told}"):
        study.read(path)


def test_precision_compares_logits():
    exact = np.array([[2.0, 0.0], [0.0, 1.0], [4.0, -1.0]])
    found = exact + np.array([[0.0, 0.1], [1.5, 0.0], [0.0, 0.0]])
    measured = precision.compare(found, exact)
    expected = {"error_of_batch": 1.5 / 4.0, "error_of_image_median": 0.05, "error_of_image_greatest": 1.5}
    assert measured == pytest.approx({**expected, "other_class": 1 / 3})
