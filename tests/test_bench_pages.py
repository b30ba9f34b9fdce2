"""Tests of ``python -m bench pages``."""

import json
import os
import subprocess
import sys

import pytest

from bench import pages
from train.huge_pages import VARIABLE


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are asked for on Linux alone")
def test_runs_alternate_and_their_times_are_compared(tmp_path, monkeypatch, capsys):
    asked = []

    def trained(command, env, **_):
        out = next(part.removeprefix("--out=") for part in command if part.startswith("--out="))
        os.makedirs(out)
        asked.append(env[VARIABLE][-1])
        seconds = {"0": 3.0, "1": 2.0}[env[VARIABLE][-1]]
        with open(os.path.join(out, "summary.json"), "w") as file:
            json.dump({"train_seconds": seconds}, file)
        return subprocess.CompletedProcess(command, 0, "")

    monkeypatch.setattr(pages.subprocess, "run", trained)
    monkeypatch.setattr(pages.machine, "describe", lambda: {"command": "python -m bench pages"})
    assert pages.run(pages.Pages(widths=(8,), rounds=2, output=tmp_path / "pages.json")) == 0
    (line,) = json.loads((tmp_path / "pages.json").read_text())["widths"]
    assert asked == ["0", "1", "1", "0"]
    assert line["faster"]["median"] == 1.5
    assert "1.50 (1.50 to 1.50)" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are asked for on Linux alone")
def test_a_run_that_fails_is_shown_and_nothing_is_written(tmp_path, capsys):
    options = pages.Pages(data="nowhere", rounds=1, output=tmp_path / "pages.json")
    assert pages.run(options) == 1
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "pages.json").exists()
