"""The READMEs: the example runs, CI runs their command, and every measured number comes from a result file."""

import pathlib
import re

import pytest

from bench import results_file
from bench.report import readme
from bench.report.results import Results
from bench.report.words import LANGUAGES

ROOT = pathlib.Path(__file__).parent.parent
NAMES = ("README.md", "README.ja.md")
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in NAMES}
README = TEXTS["README.md"]

# A number with a unit of what is measured, or a range.
_UNIT = (
    r"%|％|×(?! *\d)|times\b|-?fold\b|倍|分の|ms\b|s\b|seconds?\b|minutes?\b|hours?\b|秒|分(?!類)|時間|"
    r"[KMGT]i?B\b|points?\b|ポイント|epochs?\b|エポック|parameters?\b|パラメータ|bits?\b|ビット|images/s"
)
MEASURED = re.compile(rf"\d[\d.,]*\s*(?:{_UNIT})|\d[\d.,]*\s*(?:to|–|〜|±)\s*\d")


def prose(text: str) -> str:
    """What is left of a page without its regions, code, and the targets of its links."""
    text = readme.REGION.sub("", text)
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    text = re.sub(r"^ {4}.*$", "", text, flags=re.M)
    text = re.sub(r"`[^`]*`", "", text)
    return re.sub(r"\]\([^)]*\)", "]", text)


def test_the_example_runs_as_printed(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len(blocks) == 2
    scope = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)
    assert scope["logits"].shape == scope["prediction"].logits.shape == (4, 10)
    assert scope["depth"].shape == scope["complexity"].shape == (4,)
    assert "static twin" in capsys.readouterr().out


def test_both_languages_have_the_same_example_and_set_up():
    english, japanese = (re.findall(r"```python\n.*?```", text, flags=re.S) for text in TEXTS.values())
    assert english == japanese
    english, japanese = (re.findall(r"^ {4}python3 .*$", text, flags=re.M) for text in TEXTS.values())
    assert english == japanese


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


@pytest.mark.parametrize("name", NAMES)
def test_files_that_the_readme_names_exist(name):
    for file in re.findall(r"`((?:[\w.]+/)*[\w]+\.(?:txt|md|json|toml|py))`", readme.REGION.sub("", TEXTS[name])):
        assert (ROOT / file).is_file() or (ROOT / "bench" / file).is_file(), file


@pytest.mark.parametrize("say", LANGUAGES, ids=lambda say: say.code)
def test_the_regions_are_what_the_results_say(say):
    text = TEXTS[NAMES[LANGUAGES.index(say)]]
    assert text == readme.render(text, Results(results_file.FOLDER, say=say)), "python -m bench report writes them anew"
    assert [name for name, _ in readme.REGION.findall(text)] == list(readme.REGIONS), "each region once, in this order"


@pytest.mark.parametrize("name", NAMES)
def test_no_measured_number_stands_outside_of_a_region(name):
    assert not MEASURED.findall(prose(TEXTS[name]))


@pytest.mark.parametrize(
    "text",
    [
        "reaches 64.4 %.",
        "4.5 times as fast",
        "4.5 倍の速さ",
        "takes 12 ms",
        "159 s",
        "1,020 MiB",
        "1.5 to 2.0",
        "1.5–2",
        "10×",
    ],
)
def test_a_measured_number_would_be_noticed(text):
    assert MEASURED.search(prose(f"A net {text}\n"))
    assert not MEASURED.search(prose(f"`A net {text}`\n\n    {text}\n<!-- results: a -->\n{text}\n<!-- end -->\n"))


@pytest.mark.parametrize(
    "text", ["Python 3.11 or newer", "32×32 pixels", "eqs. 3, 4", "arXiv:2411.12876", "AVX-512, AVX2"]
)
def test_what_is_no_measurement_may_stand_anywhere(text):
    assert not MEASURED.search(prose(text))
