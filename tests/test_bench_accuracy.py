"""The study's command, on runs of seconds."""

import dataclasses
import json
import time
import types

import pytest

from bench import accuracy, study, study_row


@pytest.fixture
def rows(monkeypatch):
    recipe = {"data": "digits", "preset": "puppet_xs", "max-steps": 8, "batch-size": 32}
    monkeypatch.setattr(study_row, "RECIPE", recipe)
    monkeypatch.setattr(
        study,
        "ROWS",
        (
            study.Row("static", "main", "stored", "stored", width=8, epochs=1, seeds=(0, 1)),
            study.Row("small", "design", "4 matrices", "continuous", {"basis": 4, "hidden": 8}, width=8, epochs=1),
        ),
    )


def options(tmp_path, **more):
    return accuracy.Accuracy(folder=tmp_path / "runs", output=tmp_path / "out.json", **more)


def test_runs_what_is_missing_once(rows, tmp_path, capsys):
    assert accuracy.run(options(tmp_path, rows=("main",), jobs=2)) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "out.json").read_text())
    assert sorted(each["seed"] for each in found["runs"]) == [0, 1]  # two at a time end in any order
    (line,) = found["tables"]["main"]
    runs = found["runs"]
    assert line["accuracy"] == pytest.approx(sum(each["accuracy"] for each in runs) / 2)
    assert line["least"] == min(each["accuracy"] for each in runs)
    assert line["generator"] == 8 * 9 + 5 * 8 * 8 * 9
    assert all(each["revision"] is None or len(each["revision"]) >= 40 for each in runs)
    assert line["kernel_compression"] == 1.0
    assert line["evaluated_on"] == "test"
    assert "static" in printed
    assert "JPEG" in printed

    svg = (tmp_path / "out_pareto.svg").read_text()
    assert "static CNN, kernels stored" in svg
    assert (tmp_path / "out_pareto.png").stat().st_size > 5000

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("params.safetensors")}
    assert accuracy.run(options(tmp_path)) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before  # not trained again
    found = json.loads((tmp_path / "out.json").read_text())
    (line,) = found["tables"]["design"]
    assert line["evaluated_on"] == "validation"  # what a design is chosen on
    assert len(found["runs"]) == 3


def test_a_row_that_changes_is_another_measurement(rows, tmp_path, monkeypatch):
    assert accuracy.run(options(tmp_path, rows=("small",))) == 0
    changed = tuple(dataclasses.replace(row, learning_rate=1e-2) for row in study.ROWS)
    monkeypatch.setattr(study, "ROWS", changed)
    found = accuracy._read(tmp_path / "out.json")
    assert [accuracy._key(row, 0) in found for row in changed] == [False, False]
    assert accuracy.run(options(tmp_path, rows=("small",))) == 0
    (run,) = json.loads((tmp_path / "out.json").read_text())["runs"]  # in place of the old one
    assert accuracy._plain(run["command"]) == accuracy._key(changed[1], 0)
    trained = json.loads((tmp_path / "runs" / "small-seed0" / "config.json").read_text())
    assert trained["config"]["learning_rate"] == 1e-2


def test_stops_in_time_and_goes_on(rows, tmp_path, monkeypatch):
    """The time is up once a checkpoint is there, and then once the run has been resumed."""
    more = {"max-steps": 40000, "checkpoint-steps": 50}
    monkeypatch.setattr(study, "ROWS", (study.Row("long", "main", "stored", "stored", width=8, epochs=900, more=more),))
    run = tmp_path / "runs" / "long-seed0"
    log = run.with_name("long-seed0.log")

    def stop_when(condition):
        clock = lambda: 1e9 if condition() else 0.0  # noqa: E731
        monkeypatch.setattr(accuracy, "time", types.SimpleNamespace(monotonic=clock, sleep=time.sleep))

    stop_when(lambda: any(path.name.isdigit() for path in run.glob("checkpoints/*")))
    assert accuracy.run(options(tmp_path, minutes=1.0)) == 0
    assert json.loads((tmp_path / "out.json").read_text())["runs"] == []
    assert "interrupted; go on with" in log.read_text()
    stop_when(lambda: "resumed after step" in log.read_text())
    assert accuracy.run(options(tmp_path, minutes=1.0)) == 0
    assert log.read_text().count("interrupted; go on with") == 2


def test_a_failed_run_is_told_with_its_log(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "ROWS", (study.Row("bad", "main", "stored", "stored", more={"data": "no-such-set"}),))
    assert accuracy.run(options(tmp_path)) == 1
    assert "bad-seed0.log" in capsys.readouterr().err
    assert "no-such-set" in (tmp_path / "runs" / "bad-seed0.log").read_text()


@pytest.mark.parametrize("more", [{"rows": ("nothing",)}, {"jobs": 0}])
def test_bad_options_end_with_code_2(rows, tmp_path, more, capsys):
    assert accuracy.run(options(tmp_path, **more)) == 2
    assert f"--{next(iter(more))}" in capsys.readouterr().err


def test_list_trains_nothing(rows, tmp_path, capsys):
    assert accuracy.run(options(tmp_path, list=True)) == 0
    assert capsys.readouterr().out.count("missing  python -m train --data=digits") == 3
    assert not (tmp_path / "runs").exists()


def test_rows_of_the_study_have_names_of_their_own_and_flags_that_train_takes():
    from train.commands.train import parse

    names = [row.name for row in study.ROWS]
    assert len(set(names)) == len(names)
    for row in study.ROWS:
        config = parse([*row.flags(), "--seed", "0"])
        assert config.width == row.width
        assert (config.evaluate_on == "test") == (row.part == "main")
