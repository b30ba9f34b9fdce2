"""README and results pages: rendered from the results by templates; the examples run; CI runs the README's command."""

import json
import pathlib
import re
import shutil

import pytest

import puppet_jax as pj
from bench import report, results_file

ROOT = pathlib.Path(__file__).parent.parent
NAMES = ("README.md", "README.ja.md")
RESULTS = ("docs/results.md", "docs/results.ja.md")
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in NAMES}
README = TEXTS["README.md"]


def test_the_examples_run_as_printed(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len(blocks) == 2
    scope = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)
    assert scope["logits"].shape == scope["prediction"].logits.shape == (4, 10)
    assert scope["depth"].shape == scope["complexity"].shape == (4,)
    counts = pj.summary(scope["puppet"])
    assert capsys.readouterr().out == f"{counts}\n"
    for text in TEXTS.values():
        assert f"{counts.total:,}" in text
        assert f"{counts.static_twin:,}" in text


def test_both_languages_have_the_same_code_and_set_up():
    for pattern in (r"(?s)```python\n.*?```", r"(?m)^ {4}python3 .*$"):
        english, japanese = (re.findall(pattern, text) for text in TEXTS.values())
        without_comments = [[re.sub(r"  # .*", "", each) for each in found] for found in (english, japanese)]
        assert without_comments[0] == without_comments[1]


@pytest.mark.parametrize("name", NAMES)
def test_ci_runs_the_readmes_test_command(name):
    commands = re.findall(r"^ *(python3 -m venv .*)$", TEXTS[name], flags=re.M)
    assert len(commands) == 2
    train, test = commands
    assert train.endswith("-m train")
    assert test.endswith("-m pytest")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (pattern,) = re.findall(r"sed -n 's/\^ \*\\\(([^/]*)\\\)\$/", script)
    assert re.fullmatch(pattern, test)


@pytest.mark.parametrize(("name", "lines"), [*((name, 130) for name in NAMES), *((name, 250) for name in RESULTS)])
def test_pages_are_short(name, lines):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert text.count("\n") <= lines
    assert name in RESULTS or len(text.encode()) <= 8000


def test_pages_are_rendered_from_the_results_alone(tmp_path, monkeypatch, capsys):
    results = tmp_path / "results"
    shutil.copytree(results_file.FOLDER, results)
    monkeypatch.setattr(results_file, "FOLDER", results)
    assert report.run(report.Report(folder=tmp_path)) == 0
    assert report.run(report.Report(folder=tmp_path, check=True)) == 0
    speed = json.loads((results / "speed.json").read_text())
    speed["rows"][0]["median"] = 0.12345
    (results / "speed.json").write_text(json.dumps(speed))
    assert report.run(report.Report(folder=tmp_path, check=True)) == 1
    assert "run python -m bench report" in capsys.readouterr().err
    assert report.run(report.Report(folder=tmp_path)) == 0
    for page in report.PAGES:
        assert "0.123" in (tmp_path / page).read_text(encoding="utf-8")


def test_without_results_pages_say_so_and_a_damaged_one_is_named(tmp_path, monkeypatch, capsys):
    pages = report.render(tmp_path)
    assert "Speed has not been measured yet." in pages["README.md"]
    assert "速度はまだ測っていません" in pages["README.ja.md"]
    (tmp_path / "speed.json").write_text("{")
    monkeypatch.setattr(results_file, "FOLDER", tmp_path)
    assert report.run(report.Report(folder=tmp_path)) == 2
    assert "speed.json: damaged" in capsys.readouterr().err
