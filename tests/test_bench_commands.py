"""``python -m bench``: its parts run in a tiny configuration, and what they find is what was measured."""

import json
import subprocess

import pytest

from bench import __main__ as main
from bench import first_answer, machine, timing


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A function that runs a quick part in this process and returns the result that it wrote."""
    monkeypatch.setattr(timing, "PAUSE_S", 0.0)

    def run(command, file, code=0):
        assert main.main([*command.split(), "--quick", "--output", str(tmp_path)]) == code
        return json.loads((tmp_path / file).read_text(encoding="utf-8")) if (tmp_path / file).exists() else None

    return run


def test_a_run_that_fails_is_shown(bench, monkeypatch, capsys):
    def failing(*_):
        raise subprocess.CalledProcessError(2, "worker", "", "its own words")

    monkeypatch.setattr(first_answer, "measure", failing)
    bench("speed first_answer", "speed.json", code=1)
    assert "its own words" in capsys.readouterr().err


def test_first_answers_are_told_by_the_state_of_the_cache(monkeypatch):
    seen = []

    def ask(script, model, **environment):
        compile(script, "script", "exec")
        cache = environment["JAX_COMPILATION_CACHE_DIR"]
        seen.append(cache)
        return 1.0 if seen.count(cache) > 1 else 6.0

    monkeypatch.setattr(first_answer, "ask", ask)
    found = first_answer.measure(2)
    assert (found["cold"]["median_s"], found["warm"]["median_s"]) == (6.0, 1.0)
    assert len(set(seen)) == 2  # a new cache each round


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("speed --rounds 0", "--rounds: got 0"),
        ("accuracy --study nothing", "--study: got nothing"),
        ("accuracy --rows nothing", "--rows: got nothing"),
    ],
)
def test_bad_options_end_with_code_2(line, told, capsys):
    assert main.main(line.split()) == 2
    assert told in capsys.readouterr().err


def test_a_result_tells_its_command_without_the_folders_of_a_machine(monkeypatch):
    arguments = ["accuracy", "--folder", "/home/a/runs", "--output=/home/a/b", "--data-dir", "a/b"]
    monkeypatch.setattr("sys.argv", ["bench", *arguments])
    assert machine.describe()["command"] == "python -m bench accuracy --folder runs --output=b --data-dir a/b"
