"""``python -m train`` as a shell sees it: help, commands, exit codes, pipes, signals."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import train.__main__ as program
from train.__main__ import COMMANDS, main
from train.errors import UserError

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "COLUMNS": "100"}
READERS = [command for command in COMMANDS if command != "train"]


@pytest.fixture
def launched(monkeypatch):
    """The arguments that training is called with."""
    from train.commands import train as launch

    calls = []
    monkeypatch.setattr(launch, "launch", lambda arguments: calls.append(arguments) or 0)
    return calls


def test_training_is_the_command_where_none_is_given(launched):
    for arguments in ([], ["--epochs", "3"], ["train"], ["train", "--epochs", "3"]):
        assert main(arguments) == 0
    assert launched == [[], ["--epochs", "3"], [], ["--epochs", "3"]]


def test_the_help_of_training_names_the_other_commands_and_the_exit_codes(capsys):
    for arguments in (["--help"], ["-h"], ["train", "--help"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 0
        text = capsys.readouterr().out
        for command in READERS:
            assert re.search(rf"^ +{command} RUN", text, flags=re.M)
        for code in ("0 done", "130 interrupted", "143 terminated", "141"):
            assert code in text
        for flag in ("--data", "--puppeteer", "--epochs", "--out"):
            assert flag in text


@pytest.mark.parametrize("command", READERS)
def test_each_command_has_a_help_that_comes_without_jax(command):
    code = (
        "import sys\nfrom train.__main__ import main\n"
        f"try: main([{command!r}, '--help'])\nexcept SystemExit as end: code = end.code\n"
        "print([m for m in ('jax', 'matplotlib', 'tensorflow_datasets', 'PIL') if m in sys.modules], code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert done.stdout.startswith(f"usage: python -m train {command} ")
    assert "default: )" not in done.stdout
    assert done.stdout.splitlines()[-1] == "[] 0"


@pytest.mark.parametrize(
    ("given", "meant"), [("evl", "eval"), ("Predict", "predict"), ("plots", "plot"), ("trian", "train"), ("xyz", None)]
)
def test_a_misspelt_command_suggests_the_nearest(capsys, launched, given, meant):
    assert main([given, "run"]) == 2
    error = capsys.readouterr().err
    assert all(command in error for command in COMMANDS)
    assert ("did you mean" in error) == (meant is not None)
    if meant:
        assert error.rstrip().endswith(f"did you mean {meant}?")
    assert launched == []


@pytest.mark.parametrize("command", READERS)
def test_an_unknown_flag_is_code_2(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "run", *(["file"] if command == "export" else []), "--jsonn"])
    assert end.value.code == 2
    assert "--jsonn" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (UserError("RUN: got nothing"), 2, "error: RUN: got nothing"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_exit_codes(monkeypatch, capsys, raised, code, said):
    def fail(*_):
        raise raised

    monkeypatch.setattr(program, "_parse_and_run", fail)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["plot", "run"]) == code
    assert capsys.readouterr().err.strip() == said
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_defect_is_not_hidden(monkeypatch):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(program, "_parse_and_run", fail)
    with pytest.raises(ZeroDivisionError):
        main(["plot", "run"])


@pytest.mark.parametrize("arguments", [["plot", "--help"], ["eval", "-h"]])
def test_a_reader_that_leaves_gets_no_traceback(arguments):
    command = [sys.executable, "-u", "-m", "train", *arguments]
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, timeout=120)
    finally:
        os.close(write)
    assert done.stderr == ""
    assert done.returncode == 141


def test_a_terminal_without_unicode_is_shown_escapes(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "train", "eval", str(tmp_path / "猫")],
        capture_output=True,
        text=True,
        env=ENVIRONMENT | {"PYTHONIOENCODING": "ascii"},
        timeout=120,
    )
    assert done.returncode == 2
    assert "\\u732b does not exist" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_with_their_codes(tmp_path, number, code):
    (tmp_path / "run").mkdir()
    # Waits in a read of its metrics: they are long in coming.
    script = (
        "import sys, time, train.runs.reading, train.__main__ as program\n"
        "def wait(path):\n    print('reading', flush=True)\n    time.sleep(60)\n"
        "import train.commands.plot\ntrain.commands.plot.read_metrics = wait\n"
        f"sys.exit(program.main(['plot', {str(tmp_path / 'run')!r}]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        assert process.stdout.readline() == "reading\n"
        process.send_signal(number)
        _, error = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in error
