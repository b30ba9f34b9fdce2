"""The studies' command, on runs of seconds."""

import dataclasses
import json
import sys
import time
import types

import numpy as np
import pytest

from bench import accuracy, precision, study
from train.commands.train import parse

QUICK = study.read(study.FOLDER / "quick.toml")
# Stands for python -m train: learns at once, unless it is asked for many steps; those it does until it is told to save.
TRAINER = """
import json, pathlib, signal, sys, time
if "--data=no-such-set" in sys.argv:
    sys.exit("no-such-set: unknown")
if "--resume" in sys.argv:
    folder = pathlib.Path(sys.argv[-1])
    print("resumed", flush=True)
else:
    folder = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
    folder.mkdir(exist_ok=True)
    seed = int(sys.argv[sys.argv.index("--seed") + 1])
    (folder / "config.json").write_text(json.dumps({"config": {"width": 8}, "git_revision": "1"}))
    counts = {"generator": 50, "normalisation": 10, "head": 20, "total": 80, "static_twin": 130}
    names = ("evaluated_on", "test_images", "epochs", "steps", "accuracy_by_depth", "train_seconds")
    summary = {"test_accuracy": 0.5 + seed / 10, "parameters": counts, **dict.fromkeys(names, 1)}
    (folder / "summary.json").write_text(json.dumps(summary))
if "--max-steps=40000" in pathlib.Path(f"{folder}.command").read_text():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("saved"))
    print("under way", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def options(tmp_path):
    return accuracy.Accuracy(study="quick", folder=tmp_path / "runs", output=tmp_path)


@pytest.fixture
def train_at_once(tmp_path, monkeypatch):
    """A function that sets the study's rows, each with its seeds and more arguments; their runs end at once."""
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\n{TRAINER}")
    program.chmod(0o700)
    monkeypatch.setattr(accuracy.sys, "executable", str(program))

    def set_rows(**rows):
        made = [
            dataclasses.replace(QUICK.rows[0], name=name, seeds=seeds, arguments=(*QUICK.rows[0].arguments, *more))
            for name, (seeds, *more) in rows.items()
        ]
        monkeypatch.setattr(accuracy.studies, "read", lambda _: dataclasses.replace(QUICK, rows=tuple(made)))

    return set_rows


def result(options):
    return json.loads((options.output / "quick.json").read_text())


def test_a_study_is_trained_and_its_precision_measured(options, capsys):
    assert accuracy.run(dataclasses.replace(options, rows=("main",))) == 0
    assert "| static |" in capsys.readouterr().out
    found = result(options)
    ((run,), (line,)) = found["runs"], found["tables"]["main"]
    assert line["accuracy"] == line["least"] == line["greatest"] == run["accuracy"]
    assert line["generator"] == 8 * 9 + 5 * 8 * 8 * 9
    assert run["revision"] is None or len(run["revision"]) >= 40
    assert (line["kernel_compression"], line["evaluated_on"]) == (1.0, "test")
    assert "static CNN, kernels stored" in (options.output / "quick_pareto.svg").read_text()
    assert (options.output / "quick_pareto.png").stat().st_size > 5000
    assert accuracy.run(dataclasses.replace(options, precision=options.folder / "static-seed0")) == 0
    measured = json.loads((options.output / "precision_digits.json").read_text())
    assert measured["accuracy_exact"] == pytest.approx(run["accuracy"])
    assert measured["target"]["reached"]


def test_trains_what_is_missing(options, train_at_once, capsys):
    train_at_once(a=((0, 1),), b=((0,), "--width=9"))
    assert accuracy.run(dataclasses.replace(options, rows=("a",), jobs=2)) == 0
    (line,) = result(options)["tables"]["main"]
    assert sorted(line["seeds"]) == [0, 1]  # two at a time end in any order
    assert [line[key] for key in ("accuracy", "least", "greatest")] == pytest.approx([0.55, 0.5, 0.6])
    assert (line["kernel_compression"], line["compression"]) == (100 / 50, 130 / 80)
    # A row whose flags change is another measurement, in place of the old one.
    train_at_once(a=((0, 1), "--learning-rate=0.01"), b=((0,), "--width=9"))
    capsys.readouterr()
    assert accuracy.run(dataclasses.replace(options, list=True)) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["missing"] * 3
    train_at_once(a=((0, 1),), b=((0,), "--width=9"))
    started = len(list(options.folder.glob("*.log")))
    assert accuracy.run(options) == 0
    assert (started, len(list(options.folder.glob("*.log")))) == (2, 3)
    train_at_once(a=((0, 1),), b=((0,), "--width=10"))
    assert accuracy.run(options) == 0
    assert len(result(options)["runs"]) == 3


def test_stops_in_time_and_goes_on(options, train_at_once, monkeypatch):
    train_at_once(long=((0,), "--max-steps=40000"))
    log = options.folder / "long-seed0.log"
    for word, count in (("under way", 1), ("resumed\nunder way", 1)):
        clock = lambda word=word: 1e9 if log.exists() and word in log.read_text() else 0.0  # noqa: E731
        monkeypatch.setattr(accuracy, "time", types.SimpleNamespace(monotonic=clock, sleep=time.sleep))
        assert accuracy.run(dataclasses.replace(options, minutes=1.0)) == 0
        assert result(options)["runs"] == []
        assert log.read_text().count(word) == count
    assert log.read_text().count("saved") == 2


def test_a_failed_run_is_told_with_its_log(options, train_at_once, capsys):
    train_at_once(bad=((0,), "--data=no-such-set"))
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
