"""``python -m train`` as a shell sees it: help, commands, exit codes, pipes, signals."""

import os
import re
import signal
import subprocess
import sys

import pytest
from trained_runs import ENVIRONMENT, python

import train.__main__ as program
from train.__main__ import COMMANDS, main
from train.errors import UserError

READERS = [command for command in COMMANDS if command != "train"]


@pytest.fixture
def launched(monkeypatch):
    """The arguments that training is called with."""
    from train.commands import train

    calls = []
    monkeypatch.setattr(train, "launch", lambda arguments: calls.append(arguments) or 0)
    return calls


def test_training_is_the_command_where_none_is_given(launched):
    for arguments in ([], ["--epochs", "3"], ["train"], ["train", "--epochs", "3"]):
        assert main(arguments) == 0
    assert launched == [[], ["--epochs", "3"], [], ["--epochs", "3"]]


def test_the_help_of_training_names_the_other_commands_and_the_exit_codes(capsys):
    for arguments in (["-h"], ["train", "--help"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 0
        text = capsys.readouterr().out
        for command in READERS:
            assert re.search(rf"^ +{command} RUN", text, flags=re.M)
        for word in ("0 done", "130 interrupted", "143 terminated", "141", "--data", "--puppeteer", "--out"):
            assert word in text


def test_each_command_has_a_help_that_comes_without_jax():
    code = (
        "import sys\nfrom train.__main__ import main\n"
        f"for command in {READERS}:\n"
        "    try: main([command, '--help'])\n"
        "    except SystemExit as end: print('code', end.code)\n"
        "print([m for m in ('jax', 'matplotlib', 'tensorflow_datasets', 'PIL') if m in sys.modules])"
    )
    shown = python("-c", code).stdout
    for command in READERS:
        assert f"usage: python -m train {command} " in shown
    assert shown.count("code 0\n") == len(READERS)
    assert "default: )" not in shown
    assert shown.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("given", "meant"), [("evl", "eval"), ("Predict", "predict"), ("plots", "plot"), ("trian", "train"), ("xyz", None)]
)
def test_a_misspelt_command_suggests_the_nearest(capsys, launched, given, meant):
    assert main([given, "run"]) == 2
    error = capsys.readouterr().err
    assert all(command in error for command in COMMANDS)
    assert error.rstrip().endswith(f"did you mean {meant}?") if meant else "did you mean" not in error
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
        (OSError(28, "No space left on device", "/a/\x1bfile"), 2, "error: /a/\\x1bfile: No space left on device"),
        (ZeroDivisionError(), None, ""),  # a defect is not hidden
    ],
)
def test_exit_codes(monkeypatch, capsys, raised, code, said):
    def fail(*_):
        raise raised

    monkeypatch.setattr(program, "_parse_and_run", fail)
    before = signal.getsignal(signal.SIGTERM)
    if code is None:
        with pytest.raises(ZeroDivisionError):
            main(["plot", "run"])
    else:
        assert main(["plot", "run"]) == code
    assert capsys.readouterr().err.strip() == said
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_reader_that_leaves_gets_no_traceback():
    command = [sys.executable, "-u", "-m", "train", "plot", "--help"]
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, timeout=120)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_terminal_without_unicode_is_shown_escapes(tmp_path):
    done = python("-m", "train", "eval", tmp_path / "猫", PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert "\\u732b does not exist" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_with_their_codes(tmp_path, number, code):
    (tmp_path / "run").mkdir()
    # Waits in a read of its metrics: they are long in coming.
    script = (
        "import signal, sys, time, train.__main__ as program\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def wait(path):\n    print('reading', flush=True)\n    time.sleep(60)\n"
        "import train.plots.compared_run as compared_run\ncompared_run.read_metrics = wait\n"
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
