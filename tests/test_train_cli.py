"""``python -m train`` as a shell sees it: help, commands, flags and their values, exit codes, signals."""

import dataclasses
import json
import re
import signal
from pathlib import Path
from typing import get_args

import pytest
from trained_runs import python

import puppet_jax as pj
import train.__main__ as program
from puppet_jax._model import PUPPETEERS as library_puppeteers
from train.__main__ import COMMANDS, OVERVIEW, main
from train.commands.train import parse
from train.config import DEFAULTS, PUPPETEERS, Config, Measurement, Preset, resolve, to_json
from train.errors import UserError

READERS = [command for command in COMMANDS if command != "train"]


def test_the_help_of_training_has_every_flag_the_defaults_and_the_other_commands(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--help"])
    text = capsys.readouterr().out
    assert "TensorFlow Datasets by its name (cifar10" in text, "as in the source, lines would end anywhere"
    for command in READERS:
        assert re.search(rf"^ +{command} RUN", text, flags=re.M)
    shown = " ".join(text.replace("│", " ").split())
    flags = {"--" + field.replace("_", "-") for field in vars(Config())} - {"--measurement"}
    flags |= {f"--measurement.{field}" for field in vars(Measurement())}
    assert set(re.findall(r"(?<!\S)--[\w.-]+\b", text)) == flags | {"--help"}  # also those that texts mention
    assert len(flags) == 34
    assert max(map(len, OVERVIEW.splitlines())) <= 80, "tyro fits the rest to the terminal"
    for name, values in DEFAULTS.items():
        assert all(f"{name} {value}" in shown for value in values.values())
    for word in ("0 done", "130 interrupted", "143 terminated", "141", "recipe options"):
        assert word in shown
    assert shown.count("None") == 2, "only --measurement.bin takes it, and says what it means"


def test_the_names_in_the_help_are_the_library_s():
    assert get_args(Preset) == tuple(pj.PRESETS)
    assert tuple(library_puppeteers) == PUPPETEERS
    assert set(vars(Measurement())) <= {field.name for field in dataclasses.fields(pj.Measure)}
    assert Measurement().bin == pj.Measure().bin


def test_each_command_has_a_help_that_comes_without_jax():
    code = (
        "import sys\nfrom train.__main__ import main\n"
        f"for command in {list(COMMANDS)}:\n"
        "    try: main([command, '--help'])\n"
        "    except SystemExit as end: print('code', end.code)\n"
        "print([m for m in ('jax', 'matplotlib', 'tensorflow_datasets', 'PIL') if m in sys.modules])"
    )
    shown = python("-c", code).stdout
    for command in COMMANDS:
        assert f"usage: python -m train {'' if command == 'train' else command + ' '}[-h]" in shown
    assert shown.count("code 0\n") == len(COMMANDS)
    assert "default: )" not in shown
    assert shown.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        *([each, "run", "file", "--jsonn"] for each in READERS),
        *(["evl", "run"], ["--preset=puppet_xxl"], ["--augment=cutmix"], ["--bin", "1"]),
        ["--epochs", "many"],
        ["--no-such"],
    ],
)
def test_what_the_parser_refuses_is_code_2(arguments, capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        main(arguments)
    wrong = next((each for each in arguments if each.startswith("-")), arguments[0])
    assert wrong.partition("=")[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    "flag",
    [
        *("--epochs=0", "--max-steps=0", "--batch-size=-3", "--seed=-1", "--devices=4096"),
        *("--measurement.bin=0", "--measurement.bin=9", "--measurement.depth=99", "--measurement.function=no_such:one"),
        *("--learning-rate=0", "--learning-rate=nan", "--weight-decay=-1", "--label-smoothing=1.5", "--ema=1.0"),
        *("--exits=3;5", "--checkpoint-steps=0", "--puppeteer=no_such"),
        *("--puppeteer-options={broken", "--puppeteer-options=[1]", '--puppeteer-options={"no_such_option": 1}'),
    ],
)
def test_a_bad_value_ends_with_one_named_error_and_leaves_nothing(capsys, tmp_path, flag):
    name, value = flag.split("=")
    assert main([flag, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert name in error
    assert value in error or str(float(value)) in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_refused_and_left_alone(capsys, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["--out", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert main(["--distributed"]) == 2
    assert re.search("error: --distributed: .*JAX_COORDINATOR_ADDRESS=HOST:PORT", capsys.readouterr().err)


def test_a_configuration_has_a_recipe():
    for name in ("cifar10", "mnist", "photographs/birds"):
        config = resolve(Config(data=name))
        assert {field: getattr(config, field) for field in DEFAULTS["others"]} == DEFAULTS["others"]


def test_a_configuration_file_stands_under_the_flags(tmp_path, capsys):
    config = resolve(Config(data="cifar10", width=8, out=Path("x"), measurement=Measurement(bin=None)))
    path = tmp_path / "config.json"
    for content in (
        {"config": to_json(config), "cpus": 2},
        {"data": "cifar10", "width": 8, "measurement": {"bin": None}},
    ):
        path.write_text(json.dumps(content))
        got = parse(["--config", str(path), "--epochs=3", "--measurement.depth=full"])
        measurement = Measurement(bin=None, depth="full")
        assert resolve(got) == dataclasses.replace(config, epochs=3, out=None, measurement=measurement)
    for content, said in (
        ({"lr": 1, "measurement": {"bins": 1}}, "has lr, measurement.bins, expected names of flags"),
        ({"epochs": "3"}, "Expected `int | null`, got `str` - at `$.epochs`"),
        ([], "config.json"),
    ):
        path.write_text(json.dumps(content))
        assert main(["--config", str(path)]) == 2
        assert re.search(f"error: --config: .*{re.escape(said)}", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (UserError("RUN: got nothing"), 2, "error: RUN: got nothing"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (signal.SIGHUP, 129, "interrupted"),
        (signal.SIGTERM, 143, "interrupted"),
        (BrokenPipeError(), 141, ""),
        (OSError(28, "No space left on device", "/a/\x1bfile"), 2, "error: /a/\\x1bfile: No space left on device"),
        (ZeroDivisionError(), None, ""),  # a defect is not hidden
    ],
)
def test_exit_codes(monkeypatch, capsys, raised, code, said):
    def fail(*_):
        if isinstance(raised, signal.Signals):
            signal.raise_signal(raised)
        raise raised

    monkeypatch.setattr(program, "_run", fail)
    before = signal.getsignal(signal.SIGTERM)
    if code is None:
        with pytest.raises(ZeroDivisionError):
            main(["eval", "run"])
    else:
        assert main(["eval", "run"]) == code
    assert capsys.readouterr().err.strip() == said
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_terminal_without_unicode_escapes(tmp_path):
    done = python("-m", "train", "eval", tmp_path / "猫", PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert "\\u732b does not exist" in done.stderr
