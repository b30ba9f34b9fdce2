"""The command line: defaults, help, and bad values."""

import json
from pathlib import Path

import pytest

import puppet_jax as pj
from train.__main__ import main
from train.config import RECIPES, Config, contradictions, from_json, resolve, to_json


def test_help_explains_every_field_and_the_defaults_by_data_set(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as leave:
        main(["--help"])
    assert leave.value.code == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for field in vars(Config()):
        assert "--" + field.replace("_", "-") in shown
    for name, recipe in RECIPES.items():
        for value in vars(recipe).values():
            assert f"{name} {value}" in shown
    for preset in pj.PRESETS:
        assert preset in shown
    assert shown.count("None") == 2, "only --bin takes it, and says what it means"


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--epochs", "0"),
        ("--bin", "0"),
        ("--bin", "9"),
        ("--max-steps", "0"),
        ("--batch-size", "-3"),
        ("--learning-rate", "0"),
        ("--learning-rate", "nan"),
        ("--warmup", "1.0"),
        ("--weight-decay", "-1"),
        ("--clip-norm", "0"),
        ("--label-smoothing", "1.5"),
        ("--seed", "-1"),
        ("--preset", "puppet_xxl"),
        ("--augment", "cutmix"),
        ("--ema", "1.0"),
        ("--accumulate", "0"),
        ("--accumulate", "5"),
        ("--devices", "4096"),
        ("--keep", "0"),
        ("--checkpoint-steps", "0"),
        ("--validation-share", "1.0"),
        ("--puppeteer-options", "{broken"),
        ("--puppeteer-options", "[1]"),
        ("--puppeteer-options", '{"no_such_option": 1}'),
        ("--batch-size", "100000"),
    ],
)
def test_a_bad_value_ends_with_one_named_error_and_code_2(capsys, tmp_path, flag, value):
    # Joined by "=", or a leading minus would be read as another flag.
    assert main([f"{flag}={value}", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert flag in error
    assert value in error or str(float(value)) in error


@pytest.mark.parametrize(
    "arguments", [["--schedule", "step"], ["--epochs", "many"], ["--no-such-flag"], ["--puppeteer", "x"]]
)
def test_what_the_parser_refuses_ends_with_code_2(capsys, arguments):
    with pytest.raises(SystemExit) as leave:
        main(arguments)
    assert leave.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_folder_that_holds_something_is_refused_and_left_alone(capsys, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["--out", str(tmp_path)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    # --overwrite replaces runs, not whatever lies there.
    assert main(["--out", str(tmp_path), "--overwrite"]) == 2
    assert "thesis.txt" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_resolved_configuration_is_json_and_comes_back():
    config = resolve(Config(puppeteer="printed", data_dir=Path("somewhere"), max_steps=3))
    assert from_json(json.loads(json.dumps(to_json(config)))) == config
    assert resolve(config) == config


def test_a_data_set_without_a_recipe_gets_the_general_one():
    for name in ("cifar10", "mnist", "photographs/birds"):
        config = resolve(Config(data=name))
        assert {field: getattr(config, field) for field in vars(RECIPES["others"])} == vars(RECIPES["others"])


def test_a_process_needs_all_three_of_its_flags(capsys):
    assert main(["--process-id", "1", "--process-count", "2"]) == 2
    assert "--coordinator: missing" in capsys.readouterr().err


def test_contradictions_name_fields_that_change_numbers_and_no_others():
    ran = resolve(Config())
    asked = resolve(Config(seed=3, learning_rate=1.0, keep=9, devices=2, data_dir=Path("x"), checkpoint_steps=4))
    assert contradictions(ran, ran) == []
    assert contradictions(ran, asked) == [
        "--learning-rate is 0.005 in the run, got 1.0",
        "--seed is 0 in the run, got 3",
    ]
