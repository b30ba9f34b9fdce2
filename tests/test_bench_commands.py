"""``python -m bench``: its parts run in a tiny configuration, and what they find is what was measured."""

import dataclasses
import json

import pytest

from bench import __main__ as main
from bench import machine, plan, timing


def test_speed_measures_in_turns_and_keeps_what_it_is_not_asked_for(tmp_path, monkeypatch):
    (tmp_path / "speed.json").write_text(json.dumps({"measurements": {"train 1": {"date": "earlier"}}}))
    few = [one for one in plan.read(quick=True) if one.kind == "generate"]
    few = [dataclasses.replace(one, contenders=("generate_exact", "generate_continuous")) for one in few]
    monkeypatch.setattr(plan, "read", lambda _: few)
    monkeypatch.setattr(timing, "PAUSE_S", 0.0)
    assert main.main(["speed", "generate", "--quick", "--output", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "speed.json").read_text())
    assert result["measurements"].pop("train 1") == {"date": "earlier"}
    (measured,) = result["measurements"].values()
    for one in measured["contenders"].values():
        assert len(one["calls_s"]) == 2
        assert one["error"] is None or one["error"] < 1e-4
    (row,) = result["rows"]
    assert row["number"] == 11
    assert row["low"] <= row["median"] <= row["high"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("speed --rounds 0", "--rounds: got 0"),
        ("accuracy --study nothing", "--study: got nothing"),
    ],
)
def test_bad_options_end_with_code_2(line, told, capsys):
    assert main.main(line.split()) == 2
    assert told in capsys.readouterr().err


def test_a_result_tells_its_command_without_the_folders_of_a_machine(monkeypatch):
    arguments = ["accuracy", "--folder", "/home/a/runs", "--output=/home/a/b", "--data-dir", "a/b"]
    monkeypatch.setattr("sys.argv", ["bench", *arguments])
    assert machine.describe()["command"] == "python -m bench accuracy --folder runs --output=b --data-dir a/b"
